"""What becomes of a call's key, however the call ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.limits import LimitSet
from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.seam import Answer, StoreUnavailable
from tests.support.calls import COMPLETIONS, HELLO, a_limit, a_route, a_target
from tests.support.stage import Answer as Script
from tests.support.stage import FakePeer, Hang, Stage, event, streamed, whole_answer
from tests.support.until import until

STREAM = HELLO | {"stream": True}
PLAIN = Script([whole_answer()])


def keyed(stage: Stage, body: dict[str, Any] | bytes = HELLO, key: bytes = b"k-1") -> FakePeer:
    peer = stage.peer(body)
    peer.scope["headers"].append((b"idempotency-key", key))  # type: ignore[attr-defined]
    return peer


async def play(stage: Stage, body: dict[str, Any] | bytes = HELLO, key: bytes = b"k-1") -> FakePeer:
    return await stage.play(keyed(stage, body, key))


@pytest.mark.parametrize(("body", "script"), [(HELLO, PLAIN), (STREAM, streamed())], ids=["plain", "streamed"])
async def test_a_repetition_gets_the_first_answer_and_calls_nobody(tmp_path: Path, body: Any, script: Script) -> None:
    stage = Stage(tmp_path, script, limits=LimitSet(quota=(a_limit("requests", 1, "day"),)))
    first = await play(stage, body)
    again = await play(stage, body)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert b"idempotent-replayed" not in first.headers
    assert again.headers[b"idempotent-replayed"] == b"true"
    for name in (b"content-type", b"x-request-id", b"x-aidock-model"):
        assert again.headers[name] == first.headers[name]
    assert b"x-ratelimit-remaining-requests" in first.headers
    assert b"x-ratelimit-remaining-requests" not in again.headers, "that was true then"
    assert (len(stage.transport.exchanges), len(stage.journal.intents), len(stage.journal.outcomes)) == (1, 1, 1)
    assert stage.metric("aidock_requests_total", code="200") == 2
    assert stage.metric("aidock_requests_total", code="200", provider="") == 1
    await stage.close()


async def test_without_the_header_every_call_is_made(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN)
    for _ in range(2):
        assert b"idempotent-replayed" not in (await stage.play(HELLO)).headers
    assert len(stage.transport.exchanges) == 2
    await stage.close()


async def test_another_body_is_a_422_and_another_endpoint_another_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN)
    await play(stage)
    refused = await play(stage, HELLO | {"user": "x"})
    assert (refused.status, refused.error["code"]) == (422, "idempotency_key_reused")
    assert refused.headers[b"x-should-retry"] == b"false"
    await stage.play(keyed(stage, {"model": "m", "prompt": "Hello"}), COMPLETIONS)
    assert len(stage.transport.exchanges) == 2
    await stage.close()


async def test_a_repetition_of_a_running_call_is_a_409(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Script([Hang()]))
    peer = keyed(stage)
    first = asyncio.create_task(stage.play(peer))
    await until(lambda: "hang" in stage.plot.told)
    refused = await play(stage)
    assert (refused.status, refused.error["code"]) == (409, "idempotency_key_in_use")
    assert refused.headers[b"retry-after"] == b"1"
    peer.leave()
    await first
    assert len(stage.transport.exchanges) == 1
    await stage.close()


@pytest.mark.parametrize(
    ("script", "body", "status"),
    [
        (Script([b'{"error": {"message": "busy"}}'], status=429), HELLO, 429),
        (Script([b"{}"], status=500), HELLO, 502),
        (Script([b"no answer"]), HELLO, 502),
        (Script([event("Hi"), b"", b""]), STREAM, 200),
    ],
    ids=["429", "500", "unreadable", "broken stream"],
)
async def test_a_call_that_failed_leaves_its_key_free(tmp_path: Path, script: Script, body: Any, status: int) -> None:
    stage = Stage(tmp_path, script, streamed() if body is STREAM else PLAIN)
    assert (await play(stage, body)).status == status
    again = await play(stage, body)
    assert (again.status, again.headers.get(b"idempotent-replayed")) == (200, None)
    assert len(stage.transport.exchanges) == 2
    await stage.close()


async def test_what_an_upstream_says_of_the_request_itself_is_an_answer(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Script([b'{"error": {"message": "no such tool", "code": "bad_tool"}}'], status=400))
    first, again = await play(stage), await play(stage)
    assert (first.status, again.status) == (400, 400)
    assert again.body == first.body
    assert again.headers[b"idempotent-replayed"] == b"true"
    assert len(stage.transport.exchanges) == 1
    await stage.close()


@pytest.mark.parametrize("point", ["start", "read 1", "read 2"])
async def test_a_client_that_leaves_before_the_end_leaves_its_key_free(tmp_path: Path, point: str) -> None:
    stage = Stage(tmp_path, streamed(), streamed())
    peer = keyed(stage, STREAM)
    stage.plot.twist(point, peer.leave)
    await stage.play(peer)
    again = await play(stage, STREAM)
    assert (again.status, again.headers.get(b"idempotent-replayed")) == (200, None)
    assert len(stage.transport.exchanges) == 2
    await stage.close()


async def test_a_client_that_left_finds_its_answer_where_the_upstream_was_read_to_the_end(tmp_path: Path) -> None:
    stage = Stage(tmp_path, streamed(), route=a_route(a_target(on_client_gone="drain")))
    peer = keyed(stage, STREAM)
    stage.plot.twist("read 2", peer.leave)
    await stage.play(peer)
    again = await play(stage, STREAM)
    assert again.headers[b"idempotent-replayed"] == b"true"
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert len(stage.transport.exchanges) == 1
    await stage.close()


async def test_a_call_that_is_cancelled_leaves_its_key_free(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Script([Hang()]), PLAIN)
    peer = keyed(stage)
    first = asyncio.create_task(stage.play(peer))
    await until(lambda: "hang" in stage.plot.told)
    serving = next(task for task in asyncio.all_tasks() if "Pipeline.serve" in repr(task))
    serving.cancel()
    await first
    assert (await play(stage)).status == 200
    await stage.close()


async def test_a_refusal_before_any_upstream_leaves_the_key_free(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, limits=LimitSet(quota=(a_limit("tokens", 100_000),)))
    assert (await play(stage, b"{")).status == 400
    assert (await play(stage, HELLO | {"model": "other"})).status == 404
    assert (await play(stage, HELLO | {"max_tokens": 200_000})).status == 429
    stage.journal.full = True
    assert (await play(stage)).status == 503
    stage.journal.full = False
    stage.store.away = True
    assert (await play(stage)).status == 503
    stage.store.away = False
    assert (await play(stage)).status == 200
    assert len(stage.transport.exchanges) == 1
    await stage.close()


async def test_a_large_answer_reaches_its_client_and_a_repetition_is_told_that_it_was_not_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, streamed("x" * 300_000, "y" * 300_000, "z" * 500_000))
    first = await play(stage, STREAM)
    assert len(first.body) > 1_100_000
    again = await play(stage, STREAM)
    assert (again.status, again.error["code"]) == (409, "idempotency_answer_not_kept")
    assert again.headers[b"x-should-retry"] == b"false"
    assert len(stage.transport.exchanges) == 1
    await stage.close()


@pytest.mark.parametrize("key", [b"", b"two words", b"\xc3\xa9", b"x" * 256])
async def test_a_key_that_cannot_be_used_is_a_400(tmp_path: Path, key: bytes) -> None:
    stage = Stage(tmp_path, PLAIN)
    refused = await play(stage, key=key)
    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert stage.transport.exchanges == []
    await stage.close()


async def test_two_keys_in_a_request_are_a_400(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN)
    peer = keyed(stage)
    peer.scope["headers"].append((b"idempotency-key", b"k-2"))  # type: ignore[attr-defined]
    assert (await stage.play(peer)).status == 400
    await stage.close()


class Away(MemoryAnswers):
    """A store that answers only as often as it is allowed to."""

    def __init__(self, verbs: int) -> None:
        super().__init__()
        self.verbs = verbs

    def _count(self) -> None:
        self.verbs -= 1
        if self.verbs < 0:
            raise StoreUnavailable("away")

    async def claim(self, scope: str, fingerprint: str, owner: str, by: float | None = None) -> Any:
        self._count()
        return await super().claim(scope, fingerprint, owner, by)

    async def keep(self, scope: str, fingerprint: str, owner: str, answer: Answer | None, for_s: int) -> None:
        self._count()
        await super().keep(scope, fingerprint, owner, answer, for_s)


async def test_while_the_store_is_away_only_calls_with_a_key_are_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, answers_kept=Away(0))
    refused = await play(stage)
    assert (refused.status, refused.error["code"]) == (503, "accounting_unavailable")
    assert (await stage.play(HELLO)).status == 200
    assert len(stage.transport.exchanges) == 1
    await stage.close()


async def test_an_answer_that_cannot_be_kept_reaches_its_client_all_the_same(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, answers_kept=Away(1))
    peer = await play(stage)
    assert (peer.status, peer.complete) == (200, True)
    await stage.close()
