"""`/shadow`: who would have been refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from gateway.admin._routes import Ask, Day, Input, Output, Permission, Route, Short, read_query
from gateway.storage import shadow

DEFAULT_BY = "policy,scope,subject,metric,window,user"


class ShadowQuestion(Input):
    """`by` names what to group by, with commas between; `from` and `to` are days, both included."""

    first: Day | None = Field(default=None, alias="from")
    last: Day | None = Field(default=None, alias="to")
    by: Short = DEFAULT_BY


class ShadowRefusals(Output):
    """Calls that would have been refused; grouped by what was asked for."""

    policy: str | None = None
    scope: str | None = None
    subject: str | None = None
    metric: str | None = None
    window: str | None = None
    department: str | None = None
    user: str | None = None
    key: str | None = None
    model: str | None = None
    day: str | None = None
    refused: int
    last_at: float


class ShadowReport(Output):
    """The most refusals first."""

    object: Literal["list"]
    data: list[ShadowRefusals]


async def _report(ask: Ask) -> Mapping[str, Any]:
    """Calls by what in shadow would have refused them, the most first."""
    said = read_query(ShadowQuestion, ask.query)
    async with ask.house.database.read() as session:
        rows = await shadow.report(session, said.by.split(","), said.first, said.last)
    return {"object": "list", "data": rows}


ROUTES = (Route("GET", "/shadow", Permission.ADMIN, _report, query=ShadowQuestion, answers=ShadowReport),)
