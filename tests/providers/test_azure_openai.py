"""What Azure has of its own in OpenAI's dialect: paths, frames of its content filter, and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import paths, plugins
from gateway.core.call import Demand
from gateway.core.deployment import Target
from gateway.core.endpoint import Inference
from gateway.core.headers import Headers
from gateway.core.usage import Usage
from gateway.settings.schema import VendorTable
from gateway.settings.tables import read_table
from providers.openai import PROVIDER
from tests.providers.calls import KEY, a_call, a_target
from tests.providers.cutting import chunks, the_same_however_cut

QUIRKS = read_table(VendorTable, paths.vendors_file()).vendors["azure"].quirks.model_dump(exclude_none=True)
ENDPOINTS = {e.operation: e for e in plugins.endpoints() if isinstance(e, Inference)}

SAFE = {"hate": {"filtered": False, "severity": "safe"}}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def azure(*, undated: bool = False) -> Target:
    quirks = QUIRKS | ({"path": "openai"} if undated else {})
    base_url = "https://x.openai.azure.example" + ("/openai/v1" if undated else "")
    return a_target(quirks, base_url=base_url, upstream_model="our-gpt")


@pytest.mark.parametrize(
    "operation",
    [
        "chat/completions",
        "completions",
        "embeddings",
        "images/generations",
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
    ],
)
def test_what_azure_serves_has_the_deployment_in_its_path_or_as_its_model(operation: str) -> None:
    call = a_call({"model": "gpt-x"}, endpoint=ENDPOINTS[operation])
    dated, undated = azure(), azure(undated=True)
    assert PROVIDER.serves(operation, dated)
    path = f"/openai/deployments/our-gpt/{operation}?api-version=2024-10-21"
    assert PROVIDER.request(call, dated).target == path.encode()
    request = PROVIDER.request(call, undated)
    assert request.target == f"/openai/v1/{operation}".encode()
    assert json.loads(request.body)["model"] == "our-gpt"
    assert (b"api-key", KEY.encode()) in request.headers


@pytest.mark.parametrize("operation", ["moderations", "rerank"])
def test_what_azure_does_not_have_is_not_asked_of_it(operation: str) -> None:
    assert not PROVIDER.serves(operation, azure())
    assert not PROVIDER.serves(operation, azure(undated=True))


def test_azures_own_members_pass() -> None:
    body = {"model": "gpt-x", "messages": [{"role": "developer", "content": "x"}], "data_sources": [{"type": "s"}]}
    sent = json.loads(PROVIDER.request(a_call(body), azure()).body)
    assert sent == {**body, "model": "our-gpt"}


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _chunk(choice: dict[str, Any] | None, **members: Any) -> dict[str, Any]:
    choices = [] if choice is None else [{"index": 0, **choice}]
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-11-20"}
    return {**base, "choices": choices, **members}


FILTERED_FIRST = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
}
SAID = [
    FILTERED_FIRST,
    _chunk({"delta": {"role": "assistant", "content": "", "refusal": None}, "finish_reason": None}, obfuscation="a"),
    _chunk({"delta": {"content": "One "}, "finish_reason": None, "content_filter_results": SAFE}, obfuscation="b"),
    _chunk({"delta": {"content": "two."}, "finish_reason": None, "content_filter_results": SAFE}, obfuscation=""),
    _chunk({"delta": {}, "finish_reason": "stop", "content_filter_results": {}}),
]
LATER = [
    _chunk({"content_filter_offsets": {"check_offset": 44}, "content_filter_results": SAFE, "finish_reason": None}),
    _chunk({"content_filter_offsets": {"check_offset": 99}, "content_filter_results": SAFE, "finish_reason": None}),
]
"""What a filter that works beside the model says of text that has been sent: no delta."""


@pytest.mark.parametrize("later", [[], LATER], ids=["filtered in time", "filtered later"])
def test_a_stream_passes_as_it_is_but_for_usage_that_nobody_asked_for(later: list[Any]) -> None:
    body = {"model": "gpt-x", "stream": True, "messages": []}
    recorded = b"".join(map(_event, [*SAID, *later, _chunk(None, usage=USAGE)])) + b"data: [DONE]\n\n"
    told = the_same_however_cut(lambda: PROVIDER.stream(a_call(body), azure()), recorded)
    assert chunks(told) == [*SAID, *later]
    stream = PROVIDER.stream(a_call(body), azure())
    stream.feed(recorded)
    assert stream.usage == Usage(7, 3)


def test_the_first_frame_is_nothing_that_a_reader_would_see() -> None:
    stream = PROVIDER.stream(a_call({"model": "gpt-x", "stream": True}, demand=Demand()), azure())
    assert stream.feed(_event(FILTERED_FIRST)) == _event(FILTERED_FIRST)
    assert not stream.begun
    assert stream.produced() == 0


def test_what_a_filter_says_later_is_no_token() -> None:
    stream = PROVIDER.stream(a_call({"model": "gpt-x", "stream": True}), azure())
    stream.feed(b"".join(map(_event, SAID)))
    before = stream.produced()
    stream.feed(b"".join(map(_event, LATER)))
    assert stream.produced() <= before + 1


def test_an_answer_keeps_what_azure_adds() -> None:
    message = {"role": "assistant", "content": "Hi"}
    document = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "content_filter_results": SAFE}],
        "model": "gpt-4o-2024-11-20",
        "prompt_filter_results": FILTERED_FIRST["prompt_filter_results"],
        "usage": USAGE,
    }
    raw = json.dumps(document).encode()
    answer = PROVIDER.answer(a_call({"model": "gpt-x"}), azure(), raw)
    assert (answer.body, answer.usage) == (raw, Usage(7, 3))


_POLICY = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
_INNER = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": SAFE}
_GONE = "The API deployment for this resource does not exist."
_RATE = "Requests to the ChatCompletions_Create Operation have exceeded call rate limit. Please retry after 2 seconds."
_LONG = "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens."
_NO_KEY = "Access denied due to invalid subscription key or wrong API endpoint."

ERRORS: dict[str, tuple[int, dict[str, Any], int, str, str]] = {
    "filtered": (
        400,
        {"message": _POLICY, "type": None, "param": "prompt", "code": "content_filter", "status": 400}
        | {"innererror": _INNER},
        400,
        "content_filter",
        "invalid_request_error",
    ),
    "filtered, told inside only": (
        400,
        {"message": "No.", "type": "invalid_request_error", "param": "prompt", "code": None, "innererror": _INNER},
        400,
        "content_filter",
        "invalid_request_error",
    ),
    "no such deployment": (
        404,
        {"code": "DeploymentNotFound", "message": _GONE},
        404,
        "model_not_found",
        "invalid_request_error",
    ),
    "no such path": (404, {"code": "404", "message": "Resource not found"}, 404, "not_found", "invalid_request_error"),
    "too fast": (429, {"code": "429", "message": _RATE}, 429, "rate_limit_exceeded", "rate_limit_error"),
    "too long": (
        400,
        {"message": _LONG, "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"},
        400,
        "context_length_exceeded",
        "invalid_request_error",
    ),
    "a wrong key": (401, {"code": "401", "message": _NO_KEY}, 502, "upstream_error", "server_error"),
    "no role": (403, {"code": "PermissionDenied", "message": "no"}, 502, "upstream_error", "server_error"),
    "no capacity": (503, {"code": "ServiceUnavailable", "message": "busy"}, 502, "upstream_error", "server_error"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told_in_openais_words(name: str) -> None:
    status, told, expected, code, kind = ERRORS[name]
    error = PROVIDER.error(status, [], json.dumps({"error": told}).encode(), azure())
    assert (error.status, error.code, error.type) == (expected, code, kind)


def test_a_rate_limit_says_when_to_come_back() -> None:
    headers: Headers = [(b"retry-after", b"2"), (b"retry-after-ms", b"1480"), (b"x-ratelimit-remaining-tokens", b"0")]
    error = PROVIDER.error(429, headers, b'{"error":{"code":"429","message":"slow"}}', azure())
    assert error.headers == {"retry-after": "2", "retry-after-ms": "1480"}


def test_azures_gate_has_errors_of_another_shape() -> None:
    told = b'{ "statusCode": 429, "message": "Rate limit is exceeded. Try again in 6 seconds." }'
    error = PROVIDER.error(429, [(b"retry-after", b"6")], told, azure())
    assert (error.status, error.code, error.message) == (
        429,
        "rate_limit_exceeded",
        "Rate limit is exceeded. Try again in 6 seconds.",
    )
