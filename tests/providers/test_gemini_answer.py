"""Gemini's whole answers as chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._gemini_parts import usage
from providers.gemini import Gemini
from tests.providers.calls import a_call
from tests.providers.gemini import COUNTED, THOUGHT, part, reply, said, studio

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def read(document: Any, provider: Gemini | None = None) -> Any:
    answer = (provider or Gemini()).answer(a_call(QUESTION), studio(), json.dumps(document).encode())
    return json.loads(answer.body)


def message(document: Any) -> Any:
    (choice,) = read(document)["choices"]
    return choice["message"]


def finish(reason: str, *parts: dict[str, Any]) -> str:
    told: str = read(reply(said(*parts, finish=reason)))["choices"][0]["finish_reason"]
    return told


def test_a_text_and_its_usage() -> None:
    answer = Gemini().answer(
        a_call(QUESTION),
        studio(),
        json.dumps(reply(said(part(text="Hé "), part(text="🙂"), finish="STOP"), usage=COUNTED)).encode(),
    )
    assert answer.usage == Usage(11, 4)
    assert json.loads(answer.body) == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 0,
        "model": "gemini-3.6-flash",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé 🙂", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
    }


def test_thoughts_are_reasoning_and_count_as_completion() -> None:
    told = read(reply(said(part(text="Hm.", thought=True), part(text="Yes"), finish="STOP"), usage=THOUGHT))
    assert told["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes",
        "refusal": None,
        "reasoning_content": "Hm.",
    }
    assert told["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 35,
        "total_tokens": 55,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }


def test_calls_have_distinct_ids_their_signatures_and_their_own_finish() -> None:
    parts = [
        part(
            functionCall={"name": "weather", "args": {"city": "Oslo", "n": 9007199254740993}}, thoughtSignature="c2ln"
        ),
        part(functionCall={"name": "weather", "args": {}}),
        part(functionCall={"id": "own", "name": "clock"}),
        part(functionCall={"id": "own", "name": "clock"}),
    ]
    told = read(reply(said(*parts, finish="STOP"), usage=COUNTED))
    (choice,) = told["choices"]
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert len({call["id"] for call in calls}) == 4
    assert calls[2]["id"] == "own"
    assert [call["function"] for call in calls] == [
        {"name": "weather", "arguments": '{"city":"Oslo","n":9007199254740993}'},
        {"name": "weather", "arguments": "{}"},
        {"name": "clock", "arguments": "{}"},
        {"name": "clock", "arguments": "{}"},
    ]
    assert calls[0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert "extra_content" not in calls[1]


def test_a_signature_is_remembered_for_a_client_that_drops_it() -> None:
    provider = Gemini()
    told = read(
        reply(said(part(functionCall={"name": "weather", "args": {}}, thoughtSignature="c2ln"), finish="STOP")),
        provider,
    )
    (call,) = told["choices"][0]["message"]["tool_calls"]
    del call["extra_content"]
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]
    again = json.loads(provider.request(a_call({"model": "m", "messages": messages}), studio()).body)
    assert again["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_the_signature_of_a_text_hangs_on_the_message() -> None:
    told = message(reply(said(part(text="Yes"), part(text="", thoughtSignature="c2ln"), finish="STOP")))
    assert (told["content"], told["extra_content"]) == ("Yes", {"google": {"thought_signature": "c2ln"}})


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        *[(reason, "content_filter") for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")],
        *[(reason, "content_filter") for reason in ("IMAGE_SAFETY", "IMAGE_RECITATION", "MODEL_ARMOR")],
        ("MALFORMED_FUNCTION_CALL", "stop"),
        ("SOMETHING_NEW", "stop"),
    ],
)
def test_every_finish_reason_has_its_like(reason: str, means: str) -> None:
    assert finish(reason, part(text="x")) == means


def test_an_answer_may_be_empty() -> None:
    told = read({"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": THOUGHT})
    assert told["choices"][0]["message"]["content"] == ""
    assert told["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_was_blocked_is_a_refusal_that_was_paid_for() -> None:
    told = read(
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}}
    )
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["refusal"] == "The provider blocked the prompt (SAFETY)."
    assert told["usage"] == {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}


def test_several_answers_keep_their_numbers() -> None:
    told = read(reply(said(part(text="b"), index=1, finish="STOP"), said(part(text="a"), index=0, finish="MAX_TOKENS")))
    assert [choice["message"]["content"] for choice in told["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in told["choices"]] == ["length", "stop"]


def test_log_probabilities_are_told_as_chat_has_them() -> None:
    result = {
        "chosenCandidates": [{"token": "Hé", "tokenId": 1, "logProbability": -0.25}, {"token": "!", "tokenId": 2}],
        "topCandidates": [
            {"candidates": [{"token": "Hé", "logProbability": -0.25}, {"token": "Ho", "logProbability": -2}]}
        ],
    }
    told = read(reply(said(part(text="Hé!"), finish="STOP", logprobsResult=result)))
    assert told["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "Hé",
                "logprob": -0.25,
                "bytes": [72, 195, 169],
                "top_logprobs": [
                    {"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169]},
                    {"token": "Ho", "logprob": -2, "bytes": [72, 111]},
                ],
            },
            {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_sources_are_annotations_that_count_characters() -> None:
    text = "Ö is a letter. It snows."
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example.com", "title": "A"}}, {"web": {}}, "odd"],
        "groundingSupports": [
            {"segment": {"endIndex": 15, "text": "Ö is a letter."}, "groundingChunkIndices": [0, 1, 2, 7, "x"]},
            {"segment": {"startIndex": 16, "endIndex": 25}, "groundingChunkIndices": [0]},
        ],
    }
    citations = {
        "citationSources": [{"startIndex": 0, "endIndex": 2, "uri": "https://c.example.com"}, {"license": "MIT"}]
    }
    found = message(
        reply(said(part(text=text), finish="STOP", groundingMetadata=grounding, citationMetadata=citations))
    )["annotations"]
    cited = [annotation["url_citation"] for annotation in found]
    assert [(text[c["start_index"] : c["end_index"]], c["url"], c["title"]) for c in cited] == [
        ("Ö is a letter.", "https://a.example.com", "A"),
        ("It snows.", "https://a.example.com", "A"),
        ("Ö", "https://c.example.com", ""),
    ]


def test_sources_without_a_place_are_told_too() -> None:
    grounding = {"groundingChunks": [{"web": {"uri": "https://a.example.com", "title": "A"}}]}
    (found,) = message(reply(said(part(text="x"), finish="STOP", groundingMetadata=grounding)))["annotations"]
    assert found["url_citation"] == {"start_index": 0, "end_index": 0, "url": "https://a.example.com", "title": "A"}


def test_pictures_are_image_urls() -> None:
    told = message(reply(said(part(inlineData={"mimeType": "image/png", "data": "QUJD"}), finish="STOP")))
    assert told["content"] is None
    assert told["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]


@pytest.mark.parametrize(
    ("report", "means"),
    [
        (COUNTED, Usage(11, 4)),
        (THOUGHT, Usage(20, 35, 8, 30)),
        ({"promptTokenCount": 5, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 2}, Usage(8, 2)),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(5, 0)),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 12}, Usage(5, 7, None, 7)),
        ({"promptTokenCount": 5, "cachedContentTokenCount": 9, "candidatesTokenCount": 0}, Usage(5, 0)),
        ({"promptTokenCount": 5}, None),
        ({"candidatesTokenCount": 5}, None),
        ({"promptTokenCount": -1, "candidatesTokenCount": 5}, None),
        ({"promptTokenCount": "5", "candidatesTokenCount": 5}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_believed_where_it_can_be_true(report: Any, means: Usage | None) -> None:
    assert usage(report) == means


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"null",
        b"3",
        b'{"candidates":{}}',
        b'{"candidates":[]}',
        b'{"candidates":[null]}',
        b'{"candidates":[{"index":-1}]}',
        b'{"candidates":[{"index":"a"}]}',
        b'{"candidates":[{"index":true}]}',
        b'{"a":' * 5000,
    ],
)
def test_what_is_no_answer_is_a_502(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        Gemini().answer(a_call(QUESTION), studio(), body)
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")


ODD = [None, 3, "x", [], {}, [3], {"a": []}, True, 1.5, [{}], {"parts": 3}, {"parts": [None, 3, {}]}]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize(
    "where",
    [
        "content",
        "finishReason",
        "groundingMetadata",
        "citationMetadata",
        "logprobsResult",
        "text",
        "functionCall",
        "args",
    ],
)
def test_odd_members_never_break_the_gateway(where: str, odd: Any) -> None:
    candidate = said(part(text="x"), finish="STOP")
    if where == "text":
        candidate["content"]["parts"] = [{"text": odd, "thoughtSignature": odd}, {"inlineData": odd}]
    elif where == "functionCall":
        candidate["content"]["parts"] = [{"functionCall": odd}]
    elif where == "args":
        candidate["content"]["parts"] = [{"functionCall": {"name": "f", "args": odd, "id": odd}}]
    else:
        candidate[where] = odd
    grounding = {"groundingChunks": odd, "groundingSupports": [{"segment": odd, "groundingChunkIndices": odd}]}
    candidate.setdefault("groundingMetadata", grounding)
    candidate.setdefault("citationMetadata", {"citations": odd})
    candidate.setdefault("logprobsResult", {"chosenCandidates": odd, "topCandidates": odd})
    told = read({"candidates": [candidate], "usageMetadata": odd, "promptFeedback": odd})
    assert told["choices"][0]["finish_reason"] in ("stop", "tool_calls")
