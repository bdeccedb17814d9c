from __future__ import annotations

import json
from dataclasses import replace

from gateway.core.body import encode
from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError, upstream_error
from gateway.translation import TranslatedStream, as_chat, can_take, through_chat
from providers.openai import PROVIDER
from tests.support.calls import CHAT, a_call, a_route, a_target
from tests.support.stage import DONE, event


class Shouting:
    """Both halves of a translation that anyone can check by eye: a prompt becomes a message, an answer upper case."""

    def request(self, call: Call) -> bytes:
        return encode({"model": "m", "messages": [{"role": "user", "content": call.body.text("ask")}], "stream": True})

    def answer(self, call: Call, body: bytes) -> bytes:
        return body.upper()

    def stream(self, call: Call) -> Shouting:
        return self

    def feed(self, chunk: bytes) -> bytes:
        return chunk.upper()

    def finish(self) -> bytes:
        return b"THE END"

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        return f"broke: {error.code}".encode()


SHOUT = replace(CHAT, name="shout", operation="shout", required=("ask",), translation=Shouting())


def test_an_endpoint_that_the_provider_serves_needs_no_translation() -> None:
    assert through_chat(a_call(), a_target(), PROVIDER) is None
    native = replace(SHOUT, operation="chat/completions")
    assert through_chat(a_call({"ask": "Hi"}, endpoint=native), a_target(), PROVIDER) is None


def test_a_call_is_told_through_chat_once_and_always_asks_for_usage() -> None:
    call = a_call({"ask": "Hi", "stream": True}, endpoint=SHOUT)
    translation = through_chat(call, a_target(), PROVIDER)
    assert translation is SHOUT.translation
    told = as_chat(call, translation)
    assert told is as_chat(call, translation)
    assert (told.endpoint, told.wants_usage, told.request_id) == (CHAT, True, call.request_id)
    assert json.loads(told.body.raw)["messages"][0]["content"] == "Hi"
    assert told.demand == call.demand


def test_the_cap_in_force_is_its_providers_to_write_where_the_translation_leaves_it_out() -> None:
    call = a_call({"ask": "Hi", "most": 50}, endpoint=replace(SHOUT, caps=("most",)))
    call.demand.cap_output(40)
    told = as_chat(call, Shouting())
    assert (told.demand.requested_cap, told.demand.cap_to_write) == (None, 40)
    call.demand.cap_output(30)
    assert as_chat(call, Shouting()).demand.cap_to_write == 30
    assert json.loads(PROVIDER.request(told, a_target()).body)["max_tokens"] == 30


def test_only_a_translation_brings_an_endpoint_to_a_provider_that_lacks_it() -> None:
    assert can_take(SHOUT, a_target(), PROVIDER)
    assert not can_take(replace(SHOUT, translation=None), a_target(), PROVIDER)


def test_a_translated_stream_ends_as_its_dialect_ends() -> None:
    target = a_target()
    stream = TranslatedStream(PROVIDER.stream(a_call(), target), Shouting())
    assert stream.feed(event("hi")) == event("hi").upper()
    assert stream.begun
    assert stream.feed(event("", finish="stop") + DONE).endswith(b"THE END")
    assert stream.complete
    assert stream.failure(upstream_error("x"), "r") == b"broke: upstream_error"


def test_a_route_keeps_the_targets_that_are_wanted() -> None:
    first, second, third = a_target(upstream="a"), a_target(upstream="b"), a_target(upstream="c")
    route = a_route(first, second, fallbacks=[third])

    def named(*names: str):
        def wanted(target: Target) -> bool:
            return target.upstream.name in names

        return wanted

    assert route.only(named("a", "b", "c")) is route
    assert route.only(named("b", "c")).every_target == (second, third)
    assert route.only(named("c")).targets == (third,)
    assert route.only(named()).every_target == ()
