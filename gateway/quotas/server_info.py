"""What a server says about itself, and what follows from it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Role = Literal["primary", "replica"]

_LUA_MENDED = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
}
"""The first releases of each series in which a script can no longer break out of Lua (CVE-2025-49844 and others)."""


class ServerInfo(NamedTuple):
    """`run_id` is another after every start. `version` is a product and its number: `Redis 7.2.11`. `maxmemory` is in
    bytes, 0 for no bound; `evicted_keys` counts from the server's start."""

    run_id: str = ""
    role: Role = "primary"
    version: str = ""
    eviction_policy: str = ""
    maxmemory: int = 0
    evicted_keys: int = 0

    @property
    def may_evict(self) -> bool:
        """Whether it makes room by forgetting counters. They expire, so the volatile policies take them too."""
        return self.maxmemory > 0 and self.eviction_policy not in ("noeviction", "")

    @property
    def mended_in(self) -> str | None:
        """The release that closes known holes of this version's Lua; None where there is none to name."""
        product, _, number = self.version.partition(" ")
        version = tuple(int(part) for part in re.findall(r"\d+", number)[:3])
        mended = next((release for release in _LUA_MENDED.get(product, ()) if release[:2] >= version[:2]), None)
        return None if mended is None or version >= mended else ".".join(map(str, mended))


def server_info(text: bytes) -> ServerInfo:
    """Read the answer to INFO."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    told = {name: value for name, colon, value in lines if colon}
    valkey = told.get("valkey_version")
    return ServerInfo(
        run_id=told.get("run_id", ""),
        role="primary" if told.get("role", "master") == "master" else "replica",
        version=f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', '')}",
        eviction_policy=told.get("maxmemory_policy", ""),
        maxmemory=int(told.get("maxmemory", 0)),
        evicted_keys=int(told.get("evicted_keys", 0)),
    )
