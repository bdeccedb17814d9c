"""`/usage`: what calls cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.admin._routes import Ask, Input, Permission, Route, not_found, read_query
from gateway.receipt import receipt

_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


async def _receipt(ask: Ask) -> Mapping[str, Any]:
    """One call's receipt."""
    read_query(Input, ask.query)
    request_id = ask.path["request_id"]
    found = None
    if _REQUEST_ID.fullmatch(request_id):
        async with ask.house.database.read() as session:
            found = await receipt(session, request_id, ask.scope.user)
    if found is None:
        raise not_found(
            f"There is no receipt for '{request_id[:64]}'. The call may not have ended yet, it may have been refused, "
            "or it is not one of yours."
        )
    return found


ROUTES = (Route("GET", "/usage/{request_id}", Permission.OWN, _receipt),)
