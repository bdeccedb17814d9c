from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.core import sse
from gateway.core.body import encode
from gateway.core.errors import invalid_request
from gateway.core.ports import TextFilter
from gateway.filtering import FilteredAnswer, FilteredStream, applies
from policies._matching import Found, Matcher, MatchFilter
from providers.openai import PROVIDER
from tests.support.calls import EMBEDDINGS, HELLO, a_call, a_target
from tests.support.stage import DONE, USAGE, Answer, Hang, Stage, event, streamed, whole_answer

STREAMED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
WORD = Matcher({"word": "secret", "end": "forbidden"})


def replaced(found: Found) -> str:
    if found.name == "end":
        raise invalid_request("That must not be said.", code="content_filter")
    return "******"


def a_filter() -> TextFilter:
    return MatchFilter(WORD, replaced, 10)


def filtered(block: bytes, cut: int | None = None) -> tuple[bytes, FilteredStream]:
    call = a_call(STREAMED)
    call.filters = (a_filter,)
    stream = FilteredStream(PROVIDER.stream(call, a_target()), call)
    pieces = [block] if cut is None else [block[:cut], block[cut:]]
    return b"".join(map(stream.feed, pieces)), stream


def texts(told: bytes, member: str = "content") -> str:
    return "".join(choice["delta"].get(member) or "" for chunk in chunks(told) for choice in chunk["choices"])


def chunks(told: bytes) -> list[Any]:
    payloads = [sse.data(each) for each in sse.events(told)]
    return [json.loads(payload) for payload in payloads if payload and payload != b"[DONE]"]


def test_a_streamed_answer_is_filtered_wherever_it_is_cut() -> None:
    block = event("The sec") + event("ret is ") + event("out") + event("", finish="stop") + DONE
    for cut in range(0, len(block), 7):
        told, stream = filtered(block, cut)
        assert texts(told) == "The ****** is out"
        assert told.endswith(DONE)
        assert stream.complete


def test_held_text_comes_before_or_with_the_finish_reason() -> None:
    told, _ = filtered(event("short") + event("", finish="stop") + DONE)
    finishing = [chunk for chunk in chunks(told) if chunk["choices"][0]["finish_reason"]]
    assert finishing == [chunks(told)[-1]]
    assert texts(told) == "short"


def test_events_that_say_nothing_any_more_are_left_out() -> None:
    told, _ = filtered(event("a") + event("b"))
    assert told == b""


def test_an_answer_that_a_filter_ends_says_content_filter_and_is_over() -> None:
    told, stream = filtered(event("This is forbidden, and more of it follows") + event("never") + DONE)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(told)] == ["content_filter"]
    assert told.endswith(DONE)
    assert stream.complete
    assert stream.feed(event("more")) == b""
    assert stream.produced() > 0


def test_all_choices_end_and_the_estimated_usage_is_told_to_who_asked() -> None:
    call = a_call({**STREAMED, "n": 3, "stream_options": {"include_usage": True}})
    call.filters, call.wants_usage = (a_filter,), True
    stream = FilteredStream(PROVIDER.stream(call, a_target()), call)
    end = sse.event(encode({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}))
    told = chunks(stream.feed(end + event("This is forbidden, and more of it follows")))
    assert [[c["index"] for c in chunk["choices"]] for chunk in told] == [[1], [0, 2], []]
    assert told[-1]["usage"]["completion_tokens"] == stream.produced() > 0


def test_choices_and_kinds_of_text_do_not_mix() -> None:
    def piece(index: int, **delta: str) -> bytes:
        return sse.event(encode({"choices": [{"index": index, "delta": delta, "finish_reason": None}]}))

    def end(index: int) -> bytes:
        return sse.event(encode({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}))

    told, _ = filtered(
        piece(0, content="sec")
        + piece(1, content="ret")
        + piece(0, reasoning_content="ret")
        + piece(0, content="ret")
        + end(0)
        + end(1)
    )
    assert texts(told, "reasoning_content") == "ret"
    assert texts(told) in ("******ret", "ret******")


def test_tool_calls_and_usage_pass() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "secret"}}
    block = sse.event(encode({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}))
    told, stream = filtered(block + event("", finish="tool_calls") + event(usage=USAGE) + DONE)
    assert chunks(told)[0]["choices"][0]["delta"]["tool_calls"] == [call]
    assert stream.usage is not None


def test_texts_in_parts_and_transcripts_are_filtered() -> None:
    parts = [{"type": "text", "text": "a secret"}, {"type": "text", "text": " here"}]
    copies = {"reasoning_details": [{"text": "secret"}], "annotations": [{"url_citation": {"title": "secret"}}]}
    delta = {"content": parts, "audio": {"transcript": "a secret too"}, **copies}
    chunk = sse.event(encode({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
    end = sse.event(encode({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    told, _ = filtered(chunk + end)
    assert b"secret" not in told
    assert told.count(b"******") == 2
    whole = encode({"choices": [{"index": 0, "message": delta, "finish_reason": "stop"}]})
    assert b"secret" not in FilteredAnswer(PROVIDER.answer(a_call(), a_target(), whole), [a_filter]).body


def test_signed_thoughts_do_not_tell_what_was_filtered() -> None:
    block = {"type": "thinking", "thinking": "secret", "signature": "s"}
    delta = {"content": "secret", "thinking_blocks": [block]}
    chunk = sse.event(encode({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}))
    assert b"secret" not in filtered(chunk)[0]


def test_a_whole_answer_is_filtered_and_keeps_its_usage() -> None:
    body = whole_answer().replace(b"Hi there", b"a secret here")
    answer = FilteredAnswer(PROVIDER.answer(a_call(), a_target(), body), [a_filter])
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "a ****** here"
    assert json.loads(answer.body)["usage"] == USAGE


def test_a_whole_answer_that_a_filter_ends_keeps_the_reason_only() -> None:
    body = whole_answer().replace(b"Hi there", b"it is forbidden here")
    choice = json.loads(FilteredAnswer(PROVIDER.answer(a_call(), a_target(), body), [a_filter]).body)["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "That must not be said."}


def test_only_answers_with_texts_are_filtered() -> None:
    call = a_call(STREAMED)
    assert not applies(call)
    call.filters = (a_filter,)
    assert applies(call)
    vectors = a_call({"model": "m", "input": "x"}, endpoint=EMBEDDINGS)
    vectors.filters = (a_filter,)
    assert not applies(vectors)


def rules(action: str) -> dict[str, dict[str, object]]:
    rule = {"name": "r", "words": ["falcon"], "action": action}
    return {"content_rules": {"reach": 10, "rules": [rule]}}


async def test_an_answer_that_a_rule_ends_lets_the_upstream_go_and_is_charged_for_what_it_wrote(tmp_path: Path) -> None:
    said = Answer([event("About Falcon: it is "), event("a bird of prey"), Hang()])
    stage = Stage(tmp_path, said, policies=rules("block"))
    peer = await stage.play(STREAMED)
    assert (peer.status, peer.complete) == (200, True)
    assert b'"finish_reason":"content_filter"' in peer.body
    assert b"bird" not in peer.body
    assert stage.transport.exchanges[0].closed
    (outcome,) = stage.journal.outcomes
    assert (outcome.kind, outcome.outcome, outcome.usage_source) == ("charge", "ok", "estimated")
    assert outcome.completion_tokens
    await stage.close()


async def test_a_masked_answer_is_streamed_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, streamed("About Fal", "con: it is ", "a bird"), policies=rules("mask"))
    peer = await stage.play(STREAMED)
    assert texts(peer.body) == "About [removed]: it is a bird"
    await stage.close()


async def test_a_refused_prompt_reaches_no_upstream_and_costs_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, policies=rules("block"))
    peer = await stage.play({**STREAMED, "messages": [{"role": "user", "content": "the FALCON?"}]})
    assert (peer.status, json.loads(peer.body)["error"]["code"]) == (400, "content_filter")
    assert not stage.transport.exchanges
    assert not stage.journal.intents
    await stage.close()


async def test_a_masked_prompt_is_what_the_upstream_gets(tmp_path: Path) -> None:
    stage = Stage(tmp_path, whole_of("Yes"), policies=rules("mask"))
    await stage.play({**HELLO, "messages": [{"role": "user", "content": "the FALCON?"}]})
    assert b"the [removed]?" in stage.transport.requests[0].body
    await stage.close()


async def test_rules_in_shadow_touch_nothing_and_are_noted(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, whole_of("falcon"), policies={"content_rules": {**rules("block")["content_rules"], "shadow": True}}
    )
    peer = await stage.play({**HELLO, "messages": [{"role": "user", "content": "the FALCON?"}]})
    assert (peer.status, b"falcon" in peer.body) == (200, True)
    assert [call.shadowed for call in stage.in_shadow] == [("content_rules",)]
    await stage.close()


def whole_of(text: str) -> Answer:
    return Answer([whole_answer().replace(b"Hi there", text.encode())])


async def test_the_usage_of_an_answer_that_is_cut_is_what_its_row_says(tmp_path: Path) -> None:
    begun = {"prompt_tokens": 900, "completion_tokens": 7, "total_tokens": 907}
    long = event("About the very long and winding story of a large bird, " * 3)
    cases = {"told": [event("About ", usage=begun)], "estimated": [long], "more than asked for": [long]}
    for case, pieces in cases.items():
        stage = Stage(
            tmp_path,
            Answer([*pieces, event("Falcon: it is "), event("a bird of prey"), Hang()]),
            policies=rules("block"),
        )
        cap = {"max_tokens": 20} if case == "more than asked for" else {}
        peer = await stage.play({**STREAMED, **cap, "stream_options": {"include_usage": True}})
        await stage.close()
        (row,) = stage.journal.outcomes
        said = chunks(peer.body)[-1]["usage"]
        assert (said["prompt_tokens"], said["completion_tokens"]) == (row.prompt_tokens, row.completion_tokens), case
