"""Nobody comes in who may not, whatever is asked and however it is put."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from gateway import plugins
from gateway.admin import check_declared
from gateway.admin._doors import MAX_BODY, Document, Door
from gateway.admin._routes import Permission, Route, routes_of
from gateway.core.ids import new_request_id
from gateway.storage import users
from tests.admin.conftest import ADA, EVE, ROOT, Office, a_row

EXPLAIN = {"model": "m"}
DECLARED = routes_of(plugins.modules("gateway.admin").values())


async def answered(ask: Any) -> dict[str, Any]:
    return {}


# A route without a permission


def test_a_route_that_does_not_say_who_may_use_it_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="permission"):
        Route("GET", "/secrets", answer=answered)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="GET /secrets does not say who may use it"):
        Route("GET", "/secrets", "everybody", answered)  # type: ignore[arg-type]


@pytest.mark.parametrize("stated", [("GET", "/secrets", answered), StarletteRoute("/secrets", answered), answered])
def test_a_resource_that_states_anything_else_stops_the_start(stated: Any) -> None:
    resource = ModuleType("gateway.admin.secrets")
    resource.ROUTES = (stated,)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"gateway.admin.secrets states a route that does not say who may use it"):
        routes_of([resource])


def test_a_route_put_beside_the_resources_stops_the_start() -> None:
    async def leak(request: Request) -> Response:
        return Response("secrets")

    with pytest.raises(TypeError, match="/api/v1/leak does not say who may use it"):
        check_declared([StarletteRoute("/api/v1/leak", leak)])


async def test_every_route_below_api_is_a_door_with_a_permission(office: Office) -> None:
    routes = [route for route in office.app.routes if getattr(route, "path", "").startswith("/api")]
    below = [route for route in routes if not isinstance(route.endpoint, Document)]
    assert len(below) == len(DECLARED) >= 3
    for route in below:
        assert isinstance(route, StarletteRoute)
        assert isinstance(route.endpoint, Door)
        assert isinstance(route.endpoint.route.permission, Permission)


# Who may


async def asked(office: Office, route: Route, user: str | None, **headers: str) -> Any:
    body = EXPLAIN if route.method == "POST" else None
    return await office.ask(route.path.replace("{request_id}", "r1"), body, user=user, **headers)


@pytest.mark.parametrize("route", DECLARED, ids=lambda route: f"{route.method} {route.path}")
async def test_a_route_answers_exactly_those_it_says(office: Office, route: Route) -> None:
    await office.write(a_row("r1"))
    expected = {None: 401, ROOT: 200, ADA: 200 if route.permission is Permission.OWN else 403}
    for user, status in expected.items():
        answer = await asked(office, route, user)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-request-id"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        if status != 200:
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("route", DECLARED, ids=lambda route: f"{route.method} {route.path}")
async def test_keys_that_open_nothing_open_nothing_here(office: Office, route: Route) -> None:
    good = office.keys[ROOT]
    for bad in ("", "sk-aidock-short", good[:-1], good.swapcase(), "' OR 1=1 --"):
        answer = await asked(office, route, None, authorization=f"Bearer {bad}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    both = await asked(office, route, None, authorization=f"Bearer {good}", **{"x-api-key": office.keys[ADA]})
    assert both.status_code == 400


async def test_somebody_who_is_no_administrator_any_more_is_none(office: Office) -> None:
    assert (await office.ask("/shadow", user=ROOT)).status_code == 200
    async with office.database.write() as session:
        await users.update(session, ROOT, role="user")
    await office.directory.refresh()
    refused = await office.ask("/shadow", user=ROOT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")


# What is asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "m", "modle": "m"}, "modle"),
        ({"model": "m", "role": "admin"}, "role"),
        ({"model": "x" * 257}, "model"),
        ({"model": "m\u0000"}, "model"),
        ({"model": "m", "user": "a\nb"}, "user"),
        ({"model": "m", "prompt_tokens": -1}, "prompt_tokens"),
        ({"model": "m", "prompt_tokens": 2**31 + 1}, "prompt_tokens"),
        ({"model": "m", "prompt_tokens": 1.5}, "prompt_tokens"),
        ({"model": "m", "prompt_tokens": True}, "prompt_tokens"),
        ({"model": "m", "max_tokens": "5"}, "max_tokens"),
        ({"model": "m", "body": []}, "body"),
        ({"model": "m", "body": {}, "max_tokens": 5}, "body"),
        ({"model": "m", "endpoint": "nowhere"}, "endpoint"),
        ([], None),
        (None, None),
        (b"", None),
        (b"{", None),
        (b"\xff", None),
        (b'{"model": "\\ud800"}', None),
        (b"[" * 20_000, None),
    ],
)
async def test_input_that_makes_no_sense_is_refused_by_name(office: Office, body: Any, param: str | None) -> None:
    content = b"null" if body is None else body
    answer = await office.ask("/quotas/explain", content, user=ROOT)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert error["param"] == param


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "from=2026-02-30",
        "to=20260101",
        "from=2026-01-01&from=2026-01-02",
        "colour=red",
        "by=colour",
        "by=",
        "by=%00",
        "from=%ff",
        "&".join(f"p{number}=1" for number in range(100)),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(office: Office, query: str) -> None:
    answer = await office.ask(f"/shadow?{query}", user=ROOT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request"), answer.text


async def test_a_body_has_a_bound(office: Office) -> None:
    padding = b" " * (MAX_BODY - len(b'{"model":"m"}'))
    assert (await office.ask("/quotas/explain", b'{"model":"m"}' + padding)).status_code == 200
    answer = await office.ask("/quotas/explain", b'{"model":"m"}' + padding + b" ")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_another_method_is_told_which_one_the_path_takes(office: Office) -> None:
    for path, body, takes in (("/shadow", {}, "GET"), ("/quotas/explain", None, "POST"), ("/usage/r1", {}, "GET")):
        answer = await office.ask(path, body, user=None)
        assert (answer.status_code, answer.headers["allow"]) == (405, takes)
    assert (await office.ask("/nothing", user=None)).status_code == 404


async def test_a_database_that_is_away_is_503_and_a_defect_500_without_its_words(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.ask("/shadow", user=ROOT)  # known from now on

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM table")

    monkeypatch.setattr("gateway.admin.usage.receipt", broken)
    answer = await office.ask("/usage/r1", user=ROOT)
    assert answer.status_code == 500
    assert "SELECT" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    async with office.database.write() as session:
        await session.execute(text("DROP TABLE shadow_refusals"))
    away = await office.ask("/shadow", user=ROOT)
    assert away.status_code == 503


# Receipts


async def test_anothers_receipt_and_a_missing_one_are_the_same(office: Office) -> None:
    mine, hers = new_request_id(), new_request_id()
    await office.write(a_row(mine), a_row(hers, EVE))
    assert (await office.ask(f"/usage/{mine}")).json()["request_id"] == mine
    for path in (hers, new_request_id(), "r" * 65, "a%00b", "a%2Fb", "%F0%9F%98%80"):
        answer = await office.ask(f"/usage/{path}")
        assert answer.status_code == 404, path
    missing = new_request_id()
    texts = [(await office.ask(f"/usage/{each}")).text.replace(each, "") for each in (hers, missing)]
    assert texts[0] == texts[1]
    assert "may not have ended yet" in texts[0]
    assert (await office.ask(f"/usage/{hers}", user=ROOT)).json()["user"] == EVE
    assert (await office.ask(f"/usage/{mine}?verbose=1")).status_code == 422
