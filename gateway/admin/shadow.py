"""`/shadow`: who would have been refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from gateway.admin._routes import Ask, Day, Input, Permission, Route, Short, read_query
from gateway.storage import shadow

DEFAULT_BY = "policy,scope,subject,metric,window,user"


class _Report(Input):
    first: Day | None = Field(default=None, alias="from")
    last: Day | None = Field(default=None, alias="to")
    by: Short = DEFAULT_BY


async def _report(ask: Ask) -> Mapping[str, Any]:
    """Calls by what in shadow would have refused them, the most first."""
    said = read_query(_Report, ask.query)
    async with ask.house.database.read() as session:
        rows = await shadow.report(session, said.by.split(","), said.first, said.last)
    return {"object": "list", "data": rows}


ROUTES = (Route("GET", "/shadow", Permission.ADMIN, _report),)
