from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core import sse
from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers.mistral import PROVIDER, MistralStream
from tests.providers.calls import EMBEDDINGS, a_call, a_target
from tests.providers.streams import USAGE, chunk, lf

QUIRKS = {
    "max_tokens_field": "max_tokens",
    "stream_options": False,
    "drop": ("store", "user"),
    "rename": {"max_completion_tokens": "max_tokens", "seed": "random_seed"},
    "developer_role": "system",
}
THINKING = chunk('{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm, "}]}]}')
BOTH = chunk('{"content":[{"type":"thinking","thinking":[{"type":"text","text":"yes"}]},{"type":"text","text":"It "}]}')
PLAIN = chunk('{"content":"is ü."}')
CALLS = (
    '{"tool_calls":[{"id":"abcdefghi","function":{"name":"f","arguments":"{}"}},'
    '{"id":"abcdefghj","function":{"name":"f","arguments":"{}"}}]}'
)


def told(messages: list[dict[str, Any]], **members: Any) -> Any:
    call = a_call({"model": "gpt-x", "messages": messages, **members}, demand=Demand())
    return json.loads(PROVIDER.request(call, a_target(QUIRKS, dialect="mistral")).body)


def reader(*, keep_usage: bool = False) -> MistralStream:
    return MistralStream(a_target(dialect="mistral"), keep_usage=keep_usage)


def chunks(block: bytes) -> list[Any]:
    payloads = [sse.data(event) for event in sse.events(block)]
    return [json.loads(payload) for payload in payloads if payload and payload != b"[DONE]"]


def test_what_an_sdk_echoes_of_earlier_answers_is_left_out() -> None:
    echoed = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "reasoning_content": "Hm"}
    assert told([echoed, {"role": "user", "name": "ada", "content": "Hi"}])["messages"] == [
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Hi"},
    ]


def test_ids_of_calls_and_results_become_nine_letters_and_digits_and_stay_together() -> None:
    called = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": ""}}
    messages = told(
        [
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "functions.f:0", "name": "f", "content": "1"},
            {"role": "tool", "tool_call_id": "abcdefgh1", "content": "2"},
        ]
    )["messages"]
    made = messages[0]["tool_calls"][0]["id"]
    assert (len(made), made.isalnum()) == (9, True)
    assert messages[1] == {"role": "tool", "tool_call_id": made, "name": "f", "content": "1"}
    assert messages[2]["tool_call_id"] == "abcdefgh1"
    assert messages[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_documents_and_audio_are_said_its_way() -> None:
    parts = [
        {"type": "text", "text": "Read", "cache_control": {"type": "ephemeral"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "file", "file": {"file_id": "f1"}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example.com/a.png"}},
    ]
    assert told([{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "text", "text": "Read"},
        {"type": "document_url", "document_url": "data:application/pdf;base64,QUJD"},
        {"type": "file", "file_id": "f1"},
        {"type": "input_audio", "input_audio": "QUJD"},
        parts[4],
    ]


def test_a_file_that_is_no_url_is_a_400() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "QUJD"}}
    with pytest.raises(GatewayError) as caught:
        told([{"role": "user", "content": [part]}])
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")


def test_allowed_tools_are_the_only_ones_it_hears_of() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools[:1]}}
    body = told([{"role": "user", "content": "Hi"}], tools=tools, tool_choice=allowed)
    assert (body["tools"], body["tool_choice"]) == (tools[:1], "required")


def test_the_rows_quirks_apply_as_to_any_vendor() -> None:
    body = told([{"role": "developer", "content": "Hi"}], seed=1, store=True, max_completion_tokens=9)
    assert body["messages"][0]["role"] == "system"
    assert (body["random_seed"], body["max_tokens"]) == (1, 9)
    assert not {"seed", "store", "max_completion_tokens"} & body.keys()


@pytest.mark.parametrize("messages", ["x", [1], [{"role": "assistant", "tool_calls": [None, {"function": 1}]}]])
def test_messages_that_make_no_sense_are_the_upstreams_to_refuse(messages: Any) -> None:
    assert told(messages)["messages"]


def test_embeddings_pass_as_they_are() -> None:
    call = a_call({"model": "gpt-x", "input": "Hi"}, endpoint=EMBEDDINGS)
    assert json.loads(PROVIDER.request(call, a_target(QUIRKS)).body) == {"model": "gpt-x", "input": "Hi"}


def test_thoughts_and_texts_are_told_apart_wherever_the_stream_is_cut() -> None:
    body = lf(THINKING, BOTH, PLAIN, chunk("{}", '"model_length"', ',"usage":' + USAGE))
    for cut in range(len(body) + 1):
        stream = reader()
        got = stream.feed(body[:cut]) + stream.feed(body[cut:]) + (b"" if stream.complete else stream.finish())
        deltas = [c["choices"][0]["delta"] for c in chunks(got)]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm, yes"
        assert "".join(d.get("content", "") for d in deltas) == "It is ü."
        assert chunks(got)[-1]["choices"][0]["finish_reason"] == "length"
        assert stream.usage == Usage(7, 3)
        assert got.endswith(b"data: [DONE]\n\n")


def test_text_alone_passes_byte_for_byte() -> None:
    body = lf(PLAIN, chunk("{}", '"stop"'))
    assert reader().feed(body) == body


def test_whole_tool_calls_get_their_type_and_their_number() -> None:
    got = reader().feed(lf(chunk(CALLS, '"tool_calls"')))
    calls = chunks(got)[0]["choices"][0]["delta"]["tool_calls"]
    assert [(call["index"], call["type"], call["id"]) for call in calls] == [
        (0, "function", "abcdefghi"),
        (1, "function", "abcdefghj"),
    ]


def test_an_answer_that_ended_in_an_error_is_one() -> None:
    with pytest.raises(GatewayError, match="broke off"):
        reader().feed(lf(PLAIN, chunk("{}", '"error"')))


def test_a_cut_is_never_made_to_look_like_an_end() -> None:
    stream = reader()
    stream.feed(lf(THINKING, PLAIN, done=False))
    with pytest.raises(GatewayError, match="broke off"):
        stream.finish()


def test_what_is_no_stream_is_unreadable() -> None:
    stream = reader()
    assert stream.feed(b"<html>") == b""
    with pytest.raises(GatewayError, match="cannot be read"):
        stream.finish()


def test_an_unstreamed_answer_is_put_into_openais_words() -> None:
    message = json.loads(BOTH)["choices"][0]["delta"] | {"tool_calls": json.loads(CALLS)["tool_calls"]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": json.loads(USAGE)}
    answer = PROVIDER.answer(a_call({"messages": []}), a_target(dialect="mistral"), json.dumps(body).encode())
    told = json.loads(answer.body)["choices"][0]["message"]
    assert (told["content"], told["reasoning_content"]) == ("It ", "yes")
    assert [call["type"] for call in told["tool_calls"]] == ["function", "function"]
    assert "index" not in told["tool_calls"][0]
    assert answer.usage == Usage(7, 3)


@pytest.mark.parametrize("body", [b'{"choices":[{"message":{"content":[1,{"type":"thinking"}]}}]}', b'{"content":[,'])
def test_an_absurd_answer_is_no_defect_of_ours(body: bytes) -> None:
    try:
        PROVIDER.answer(a_call({"messages": []}), a_target(dialect="mistral"), body)
    except GatewayError as error:
        assert error.status == 502  # noqa: PT017  either outcome is right, a traceback is not
