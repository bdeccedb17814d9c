"""Conversations between the pipeline and their store: what is put into a body, and what is kept of an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.client import Client
from gateway.conversations.kept import MOST_CONVERSATION_BYTES, Conversations
from gateway.conversations.memory import MemoryConversations
from gateway.conversations.redis import RedisConversations
from gateway.conversations.seam import StoreUnavailable
from gateway.core.body import Body
from gateway.core.errors import GatewayError
from gateway.core.principal import Principal
from gateway.endpoints._responses_kept import response_in
from gateway.endpoints.responses import ENDPOINT
from gateway.settings.schema import ServerSettings
from tests.support.calls import ADA, CHAT, a_call
from tests.support.gateway import free_port

EVE = Principal("k1", "eve@example.com", "research")
SAID = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}
MOST = 2**20
SERVER = ServerSettings(responses_store_seconds=60, max_body_bytes=MOST)


class Away(MemoryConversations):
    async def get(self, name: str) -> bytes | None:
        raise StoreUnavailable("away")

    async def drop(self, name: str) -> bool:
        raise StoreUnavailable("away")

    async def put(self, name: str, conversation: bytes, for_s: int) -> None:
        raise StoreUnavailable("away")


def document(status: str = "completed", identity: str = "resp_r1", output: Any = None) -> dict[str, Any]:
    return {"id": identity, "object": "response", "status": status, "output": [SAID] if output is None else output}


def streamed(response: dict[str, Any]) -> bytes:
    events: list[dict[str, Any]] = [{"type": "x"}, {"type": f"response.{response['status']}", "response": response}]
    return b"".join(b"event: e\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)


async def answer(
    conversations: Conversations,
    last: bytes,
    *,
    principal: Principal = ADA,
    request_id: str = "r1",
    failed: bool = False,
    **members: Any,
) -> list[bytes]:
    """A call that is answered with these last bytes; what its client was sent."""
    call = a_call(
        {"model": "m", "input": "Hi", **members}, endpoint=ENDPOINT, principal=principal, request_id=request_id
    )
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])

    nothing: Any = None
    client = Client({"type": "http"}, nothing, send)
    conversations.watch(call, client, 60)
    await client.begin(200, [])
    await client.write(b"event: e\n\n")
    await (client.fail(last) if failed else client.end(last))
    return sent


async def recall(conversations: Conversations, principal: Principal = ADA, **members: Any) -> Any:
    body = Body(json.dumps({"model": "m", "input": "And?", "previous_response_id": "resp_r1", **members}).encode())
    return await conversations.recall(ENDPOINT, principal, body, SERVER)


@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_is_continued_with_all_that_was_said(stream: bool, status: str) -> None:
    conversations = Conversations(MemoryConversations())
    whole = document(status)
    last = streamed(whole) if stream else json.dumps(whole).encode()
    assert (await answer(conversations, last, stream=stream))[-1] == last
    body, continues = await recall(conversations)
    assert continues == "resp_r1"
    assert "previous_response_id" not in body
    first, second = {"type": "message", "role": "user", "content": "Hi"}, {"content": "And?"}
    assert body.value("input") == [first, SAID, {**first, **second}]
    items = [{"role": "user", "content": "And?"}, {"role": "user", "content": "Well?"}]
    assert (await recall(conversations, input=items)).body.value("input") == [first, SAID, *items]


async def test_nobody_continues_what_another_user_said() -> None:
    conversations = Conversations(MemoryConversations())
    await answer(conversations, json.dumps(document()).encode())
    assert (await recall(conversations, principal=EVE)).continues is None
    assert (await recall(conversations, principal=replace(ADA, key_id="k9"))).continues == "resp_r1"


@pytest.mark.parametrize(
    ("last", "members"),
    [
        (document(), {"store": False}),
        (document(identity="resp_theirs"), {}),
        (document("failed"), {}),
        (document("in_progress"), {}),
        (document(output=7), {}),
        ({"id": "resp_r1"}, {}),
        ([], {}),
        ("x", {}),
        (document(), {"stream": True}),
        (document(output=[{"x": "y" * MOST_CONVERSATION_BYTES}]), {}),
    ],
    ids=str,
)
async def test_nothing_else_is_kept(last: Any, members: dict[str, Any]) -> None:
    conversations = Conversations(MemoryConversations())
    await answer(conversations, json.dumps(last).encode(), **members)
    assert (await recall(conversations)).continues is None


async def test_an_answer_that_broke_off_is_not_kept() -> None:
    conversations = Conversations(MemoryConversations())
    await answer(conversations, json.dumps(document()).encode(), failed=True)
    assert (await recall(conversations)).continues is None


async def test_what_is_not_kept_stays_for_the_upstream_to_know() -> None:
    body = (await recall(Conversations(MemoryConversations()))).body
    assert body.text("previous_response_id") == "resp_r1"


async def test_a_body_that_continues_nothing_is_left_alone() -> None:
    conversations = Conversations(Away())
    body = Body(b'{"model":"m","input":"Hi"}')
    assert await conversations.recall(ENDPOINT, ADA, body, SERVER) == (body, None)
    chat = Body(b'{"previous_response_id":"resp_r1"}')
    assert await conversations.recall(CHAT, ADA, chat, SERVER) == (chat, None)
    assert await conversations.recall(ENDPOINT, ADA, chat, ServerSettings()) == (chat, None)


async def test_a_conversation_that_makes_the_body_too_large_is_a_413() -> None:
    conversations = Conversations(MemoryConversations())
    await answer(conversations, json.dumps(document(output=[{"x": "y" * MOST}])).encode())
    with pytest.raises(GatewayError) as refused:
        await recall(conversations)
    assert refused.value.status == 413


async def test_a_store_that_is_away_refuses_who_continues_and_lets_answers_go_out() -> None:
    conversations = Conversations(Away())
    whole = json.dumps(document()).encode()
    assert (await answer(conversations, whole))[-1] == whole
    with pytest.raises(GatewayError) as refused:
        await recall(conversations)
    assert (refused.value.status, refused.value.code) == (503, "conversation_unavailable")


async def test_what_is_kept_can_be_looked_up_and_forgotten_by_its_user_alone() -> None:
    conversations = Conversations(MemoryConversations())
    await answer(conversations, json.dumps(document()).encode())
    kept = await conversations.lookup(ADA, "resp_r1")
    assert kept is not None
    assert json.loads(response_in(kept)) == document()
    assert await conversations.lookup(EVE, "resp_r1") is None
    assert not await conversations.forget(EVE, "resp_r1")
    assert await conversations.forget(ADA, "resp_r1")
    assert (await recall(conversations)).continues is None
    for ask in (Conversations(Away()).lookup, Conversations(Away()).forget):
        with pytest.raises(GatewayError) as refused:
            await ask(ADA, "resp_r1")
        assert refused.value.status == 503


async def test_a_redis_that_is_not_there_is_a_store_that_is_away() -> None:
    store = RedisConversations(f"redis://127.0.0.1:{free_port()}/0", within_s=0.2)
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    with pytest.raises(StoreUnavailable):
        await store.put("a", b"[]", 60)
    await store.close()


@pytest.mark.parametrize("value", [7, ["resp_r1"], {}])
async def test_an_id_that_is_none_is_a_400(value: Any) -> None:
    with pytest.raises(GatewayError) as refused:
        await recall(Conversations(MemoryConversations()), previous_response_id=value)
    assert refused.value.status == 400
