"""Chat's answers as responses: whole ones, streamed ones, and that both say the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError, upstream_error
from gateway.endpoints._responses_seal import unseal
from gateway.endpoints._responses_stream import ResponseStream
from gateway.endpoints.responses import ENDPOINT
from tests.support.calls import a_call
from tests.support.responses_events import check, check_response, events_of

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "team", "description": "A team.", "tools": [{"type": "function", "name": "spawn"}]},
]
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
BLOCK = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
CITED = {
    "type": "url_citation",
    "url_citation": {"url": "https://example.com", "title": "E", "start_index": 0, "end_index": 2},
}
EXTRA = {"google": {"thought_signature": "xyz"}}


def a_request(**members: Any) -> Any:
    body = {"model": "m", "input": "Hi", "tools": TOOLS, "metadata": {"a": "b"}, **members}
    return a_call(body, endpoint=ENDPOINT)


def call_of(name: str, arguments: str, identity: str = "c1", **extra: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **extra}


def token(text: str) -> dict[str, Any]:
    return {
        "token": text,
        "bytes": list(text.encode()),
        "logprob": -0.5,
        "top_logprobs": [{"token": "x", "logprob": -1}],
    }


def begun(index: int, call: dict[str, Any], arguments: str) -> dict[str, Any]:
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"tool_calls": [{**call, "index": index, "function": function}]}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


ROLE = {"role": "assistant", "content": ""}
F = call_of("f", '{"a":1}')
G = call_of("f", '{"a":2}', "c2")

SAME: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "text": ([ROLE, {"content": "Hé "}, {"content": "🙂\u2028"}], {"content": "Hé 🙂\u2028"}, "stop"),
    "nothing": ([ROLE], {"content": ""}, "stop"),
    "cut by the cap": ([{"content": "Hel"}], {"content": "Hel"}, "length"),
    "cut by a filter": ([{"content": "Hel"}], {"content": "Hel"}, "content_filter"),
    "a refusal": ([{"refusal": "No"}, {"refusal": "."}], {"content": None, "refusal": "No."}, "stop"),
    "text and a refusal": (
        [{"content": "Well"}, {"refusal": "No."}],
        {"content": "Well", "refusal": "No."},
        "stop",
    ),
    "thoughts": (
        [{"reasoning_content": "H"}, {"reasoning_content": "m."}, {"content": "Yes."}],
        {"reasoning_content": "Hm.", "content": "Yes."},
        "stop",
    ),
    "thoughts by their other name": (
        [{"reasoning": "Hm."}, {"content": "Yes."}],
        {"reasoning": "Hm.", "content": "Yes."},
        "stop",
    ),
    "signed thoughts": (
        [{"reasoning_content": "Hm."}, {"thinking_blocks": [BLOCK]}, {"content": "Yes."}],
        {"reasoning_content": "Hm.", "thinking_blocks": [BLOCK], "content": "Yes."},
        "stop",
    ),
    "a call": ([begun(0, F, ""), more(0, '{"a"'), more(0, ":1}")], {"content": None, "tool_calls": [F]}, "tool_calls"),
    "a call at once": ([begun(0, F, '{"a":1}')], {"content": None, "tool_calls": [F]}, "tool_calls"),
    "a call without arguments": (
        [begun(0, call_of("f", ""), "")],
        {"content": None, "tool_calls": [call_of("f", "")]},
        "tool_calls",
    ),
    "text and two calls": (
        [{"content": "So: "}, begun(0, F, '{"a":1}'), begun(1, G, ""), more(1, '{"a":2}')],
        {"content": "So: ", "tool_calls": [F, G]},
        "tool_calls",
    ),
    "two calls at the same time": (
        [begun(0, F, ""), begun(1, G, ""), more(0, '{"a"'), more(1, '{"a":2}'), more(0, ":1}")],
        {"content": None, "tool_calls": [F, G]},
        "tool_calls",
    ),
    "a call with something of its provider's": (
        [begun(0, call_of("f", "{}", extra_content=EXTRA), "{}")],
        {"content": None, "tool_calls": [call_of("f", "{}", extra_content=EXTRA)]},
        "tool_calls",
    ),
    "a custom tool": (
        [begun(0, call_of("patch", ""), '{"input":'), more(0, '"a\\nb"}')],
        {"content": None, "tool_calls": [call_of("patch", '{"input":"a\\nb"}')]},
        "tool_calls",
    ),
    "a tool of a namespace": (
        [begun(0, call_of("team__spawn", "{}"), "{}")],
        {"content": None, "tool_calls": [call_of("team__spawn", "{}")]},
        "tool_calls",
    ),
    "a tool that nobody has": (
        [begun(0, call_of("nobody", "{}"), "{}")],
        {"content": None, "tool_calls": [call_of("nobody", "{}")]},
        "tool_calls",
    ),
    "citations": ([{"content": "Hi"}, {"annotations": [CITED]}], {"content": "Hi", "annotations": [CITED]}, "stop"),
}
EVERY = pytest.mark.parametrize("name", SAME)


def chunks(deltas: list[dict[str, Any]], finish: str, usage: Any = USAGE) -> bytes:
    """A chat stream as providers give it."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish})
    documents = [{**head, "choices": [choice], "usage": None} for choice in choices]
    if usage is not None:
        documents.append({**head, "choices": [], "usage": usage})
    body = b"".join(b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in documents)
    return b": a comment\n\n" + body + b"data: [DONE]\n\n"


def whole(message: dict[str, Any], finish: str, call: Any = None, **members: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    document = {
        "id": "c",
        "object": "chat.completion",
        "model": "gpt-x",
        "choices": [{**choice, **members}],
        "usage": USAGE,
    }
    assert ENDPOINT.translation is not None
    made: dict[str, Any] = json.loads(ENDPOINT.translation.answer(call or a_request(), json.dumps(document).encode()))
    return made


def streamed(body: bytes, call: Any = None) -> list[dict[str, Any]]:
    stream = ResponseStream(call or a_request(stream=True))
    return events_of(stream.feed(body) + stream.finish())


@EVERY
def test_an_answer_is_the_same_response_streamed_or_not_and_every_event_is_valid(name: str) -> None:
    deltas, message, finish = SAME[name]
    call = a_request(stream=True)
    response = whole(message, finish, call)
    check_response(response)
    events = streamed(chunks(deltas, finish), call)
    check(events)
    assert events[-1]["response"] == response


@EVERY
def test_where_chats_stream_is_cut_makes_no_difference(name: str) -> None:
    deltas, _, finish = SAME[name]
    body = chunks(deltas, finish)
    call = a_request(stream=True)
    golden = streamed(body, call)
    for cut in range(0, len(body), 3):
        stream = ResponseStream(call)
        assert events_of(stream.feed(body[:cut]) + stream.feed(body[cut:]) + stream.finish()) == golden
    stream = ResponseStream(call)
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert events_of(b"".join(map(stream.feed, pieces)) + stream.finish()) == golden


@EVERY
def test_the_done_events_hold_what_the_deltas_did(name: str) -> None:
    deltas, _, finish = SAME[name]
    events = streamed(chunks(deltas, finish))
    for kind, member in {
        "output_text": "text",
        "refusal": "refusal",
        "reasoning_summary_text": "text",
        "function_call_arguments": "arguments",
        "custom_tool_call_input": "input",
    }.items():
        done = {
            (e["item_id"], e.get("content_index")): e[member] for e in events if e["type"] == f"response.{kind}.done"
        }
        said: dict[Any, str] = {}
        for event in events:
            if event["type"] == f"response.{kind}.delta":
                at = (event["item_id"], event.get("content_index"))
                said[at] = said.get(at, "") + event["delta"]
        assert said == done
    added = [e for e in events if e["type"] == "response.output_item.added"]
    ended = [e for e in events if e["type"] == "response.output_item.done"]
    assert [e["output_index"] for e in added] == list(range(len(added)))
    final = events[-1]["response"]["output"]
    assert sorted(final, key=lambda item: item["id"]) == sorted((e["item"] for e in ended), key=lambda item: item["id"])
    assert [e["item"]["id"] for e in added] == [item["id"] for item in final]


def test_a_response_repeats_its_request_and_says_what_was_used() -> None:
    response = whole({"content": "Hi"}, "stop", a_request(temperature=0.5, max_output_tokens=64, instructions="Be."))
    assert response["model"] == "gpt-x"
    repeated = ("temperature", "max_output_tokens", "instructions", "metadata", "tools")
    assert [response[name] for name in repeated] == [0.5, 64, "Be.", {"a": "b"}, TOOLS]
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 10,
    }


def test_usage_that_nobody_told_is_not_invented() -> None:
    events = streamed(chunks([{"content": "Hi"}], "stop", usage=None))
    check(events)
    assert "usage" not in events[-1]["response"]


def test_tools_have_their_clients_names_again() -> None:
    message = {"content": None, "tool_calls": [call_of("team__spawn", "{}"), call_of("patch", "odd", "c2")]}
    spawned, patched = whole(message, "tool_calls")["output"]
    assert (spawned["name"], spawned["namespace"], spawned["call_id"]) == ("spawn", "team", "c1")
    assert (patched["type"], patched["name"], patched["input"]) == ("custom_tool_call", "patch", "odd")


def test_what_a_provider_needs_back_is_sealed_into_a_reasoning_item() -> None:
    message = {"thinking_blocks": [BLOCK], "tool_calls": [call_of("f", "{}", extra_content=EXTRA)]}
    reasoning, _ = whole(message, "tool_calls")["output"]
    assert reasoning["summary"] == []
    assert unseal(reasoning["encrypted_content"]) == ([BLOCK], {"c1": EXTRA})


@pytest.mark.parametrize("late", [{"thinking_blocks": [BLOCK]}, {"tool_calls": [{"index": 0, "extra_content": EXTRA}]}])
def test_what_comes_late_is_not_lost(late: dict[str, Any]) -> None:
    if "tool_calls" in late:
        late = {"tool_calls": [{**late["tool_calls"][0], "id": "c1"}]}
    events = streamed(chunks([{"content": "So."}, begun(0, F, "{}"), late], "tool_calls"))
    check(events)
    (reasoning,) = [item for item in events[-1]["response"]["output"] if item["type"] == "reasoning"]
    assert unseal(reasoning["encrypted_content"]) in (([BLOCK], {}), ([], {"c1": EXTRA}))


def test_log_probabilities_are_told_with_their_text() -> None:
    choices = [
        {"index": 0, "delta": {"content": text}, "logprobs": {"content": [token(text)]}, "finish_reason": None}
        for text in ("Hé", "y")
    ]
    body = b"".join(b'data: {"model":"m","choices":[' + json.dumps(one).encode() + b"]}\n\n" for one in choices)
    events = streamed(body)
    check(events)
    (item,) = events[-1]["response"]["output"]
    told = item["content"][0]["logprobs"]
    assert [one["token"] for one in told] == ["Hé", "y"]
    assert told[0]["top_logprobs"] == [{"token": "x", "bytes": [120], "logprob": -1.0}]
    response = whole({"content": "Héy"}, "stop", logprobs={"content": [token("Hé"), token("y")]})
    assert response["output"][0]["content"][0]["logprobs"] == told


def test_arguments_may_come_before_their_name() -> None:
    unnamed = {"tool_calls": [{"index": 0, "id": "c1", "function": {"arguments": '{"a"'}}]}
    named = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ":1}"}}]}
    events = streamed(chunks([unnamed, named], "tool_calls"))
    check(events)
    (call,) = events[-1]["response"]["output"]
    assert (call["name"], call["call_id"], call["arguments"]) == ("f", "c1", '{"a":1}')


@EVERY
def test_a_failure_at_any_place_ends_with_a_failed_response(name: str) -> None:
    deltas, _, finish = SAME[name]
    body = chunks(deltas, finish)
    ends = [0, *(at + 2 for at in range(len(body)) if body.startswith(b"\n\n", at))]
    for end in ends[:-1]:
        stream = ResponseStream(a_request(stream=True))
        events = events_of(stream.feed(body[:end]) + stream.failure(upstream_error("gone"), "r1"))
        check(events)
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["message"]) == ("failed", "gone")


ABSURD: list[Any] = [None, 7, "x", [], {}, [7], [{}], {"a": [1]}, [{"index": "x", "function": 7}], True]
MEMBERS = ["content", "reasoning_content", "refusal", "tool_calls", "annotations", "thinking_blocks", "logprobs"]


@pytest.mark.parametrize("member", MEMBERS)
def test_an_upstreams_nonsense_is_no_defect_of_ours(member: str) -> None:
    for value, finish in itertools.product(ABSURD, ["stop", None, 7]):
        delta = {"content": "Hi", member: value}
        document = {
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": value}],
            "usage": value,
        }
        check(streamed(b"data: " + json.dumps(document).encode() + b"\n\n"))
        response = whole(delta, finish, logprobs=value)  # type: ignore[arg-type]  that is the point
        check_response(response)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"choices":7}', b'{"choices":[]}', b'{"choices":[{"message":7}]}']
)
def test_an_answer_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    assert ENDPOINT.translation is not None
    with pytest.raises(GatewayError) as raised:
        ENDPOINT.translation.answer(a_request(), body)
    assert raised.value.status == 502


@pytest.mark.parametrize("payload", [b"{", b"[]", b"7", b"null"])
def test_a_chunk_that_is_none_is_too(payload: bytes) -> None:
    stream = ResponseStream(a_request(stream=True))
    with pytest.raises(GatewayError) as raised:
        stream.feed(b"data: " + payload + b"\n\n")
    assert raised.value.status == 502


def test_an_answer_without_end_is_not_held_without_end() -> None:
    stream = ResponseStream(a_request(stream=True))
    block = chunks([{"content": "x" * 2**20}] * 8, "stop").removesuffix(b"data: [DONE]\n\n")
    with pytest.raises(GatewayError, match="longer"):
        b"".join(map(stream.feed, [block] * 10))
