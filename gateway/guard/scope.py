"""ASGI scopes: what is true of a connection, and what of one of its requests."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, Final

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.guard.head import Head

Scope = MutableMapping[str, Any]

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def connection_scope(transport: asyncio.Transport, root_path: str) -> dict[str, Any]:
    """What every request on a connection has in common."""
    return {
        "type": "http",
        "asgi": _ASGI,
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "scheme": "https" if is_ssl(transport) else "http",
        "root_path": root_path,
    }


def request_scope(common: dict[str, Any], head: Head, state: dict[str, Any], client: object) -> Scope:
    """A request's scope. `client` is the extension `aidock.client`."""
    path, raw_path = head.path, head.raw_path
    if common["root_path"]:
        path, raw_path = common["root_path"] + path, common["root_path"].encode("ascii") + raw_path
    return {
        **common,
        "http_version": head.version,
        "method": head.method,
        "path": path,
        "raw_path": raw_path,
        "query_string": head.query,
        "headers": head.headers.copy(),
        "state": state.copy(),
        "extensions": {"aidock.client": client},
    }
