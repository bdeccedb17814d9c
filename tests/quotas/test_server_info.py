"""What a server says about itself."""

from __future__ import annotations

import pytest

from gateway.quotas.server_info import ServerInfo, server_info


def test_info_is_read_from_redis_and_from_valkey() -> None:
    redis = (
        b"# Server\r\nredis_version:7.2.11\r\nrun_id:0123abc\r\n# Memory\r\nmaxmemory:1048576\r\n"
        b"maxmemory_policy:allkeys-lru\r\n# Stats\r\nevicted_keys:7\r\n# Replication\r\nrole:slave\r\n"
    )
    assert server_info(redis) == ServerInfo("0123abc", "replica", "Redis 7.2.11", "allkeys-lru", 1_048_576, 7)
    valkey = b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nrole:master\r\n"
    assert server_info(valkey).version == "Valkey 9.1.2"
    assert server_info(valkey).role == "primary"


@pytest.mark.parametrize(
    ("version", "mended_in"),
    [
        ("Redis 5.0.14", "6.2.20"),
        ("Redis 6.2.19", "6.2.20"),
        ("Redis 6.2.20", None),
        ("Redis 7.0.15", "7.2.11"),
        ("Redis 7.2.10", "7.2.11"),
        ("Redis 7.2.11", None),
        ("Redis 7.4.5", "7.4.6"),
        ("Redis 8.0.3", "8.0.4"),
        ("Redis 8.0.4", None),
        ("Redis 8.2.1", "8.2.2"),
        ("Redis 8.4.0", None),
        ("Valkey 7.2.4", "7.2.11"),
        ("Valkey 8.0.6", None),
        ("Valkey 8.1.3", "8.1.4"),
        ("Valkey 9.1.2", None),
        ("", None),
    ],
)
def test_versions_with_known_holes_are_told_by_the_release_that_closes_them(version: str, mended_in: str) -> None:
    assert ServerInfo(version=version).mended_in == mended_in


@pytest.mark.parametrize(
    ("maxmemory", "policy", "may_evict"),
    [
        (0, "allkeys-lru", False),
        (1, "noeviction", False),
        (1, "allkeys-lru", True),
        (1, "volatile-ttl", True),
        (1, "", False),
    ],
)
def test_a_bound_and_any_policy_but_noeviction_may_evict(maxmemory: int, policy: str, may_evict: bool) -> None:
    assert ServerInfo(maxmemory=maxmemory, eviction_policy=policy).may_evict is may_evict
