"""What an upstream that serves responses is sent, and what its whole answers become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Call, Demand
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from gateway.endpoints import responses
from gateway.paths import vendors_file
from gateway.settings.tables import Vendors
from providers._responses_answer import read_response
from providers.openai import PROVIDER
from tests.providers.calls import KEY, a_call, a_target
from tests.providers.responses_streams import USAGE, message, response
from tests.support.responses_events import check_response

NATIVE = {"operations": ["responses"]}
ODD = (
    b'{"model":"gpt-x", "input":[{"x":9007199254740993,"y":1e2}], "stream":true,'
    b'"stream_options":{"include_obfuscation":false}}'
)


def ask(body: bytes | dict[str, Any], **demand: Any) -> Call:
    return a_call(body, endpoint=responses.ENDPOINT, demand=Demand(**demand))


def target(**quirks: Any) -> Target:
    return a_target({**NATIVE, **quirks})


def test_a_vendor_serves_responses_where_its_row_says_so() -> None:
    assert PROVIDER.serves("responses", target())
    assert not PROVIDER.serves("responses", a_target())


@pytest.mark.parametrize("vendor", ["openai", "azure", "fireworks", "groq", "openrouter", "xai"])
def test_vendors_that_have_the_api_say_so(vendor: str) -> None:
    assert "responses" in Vendors.read(vendors_file()).rows[vendor].quirks.model_dump()["operations"]


def test_the_body_passes_byte_for_byte() -> None:
    request = PROVIDER.request(ask(ODD), target())
    assert request.body == ODD
    assert request.target.endswith(b"/v1/responses")


def test_only_the_models_name_and_a_lowered_cap_are_written() -> None:
    body = {"model": "mine", "input": "Hi", "max_output_tokens": 500, "stream": True}
    call = ask(body, requested_cap=500, output_cap=40)
    for quirks in ({}, {"max_tokens_field": "max_completion_tokens"}, {"stream_options": False}):
        sent = json.loads(PROVIDER.request(call, target(**quirks)).body)
        assert sent == {"model": "gpt-x", "input": "Hi", "max_output_tokens": 40, "stream": True}


def test_azure_has_responses_at_its_undated_address_with_the_deployment_as_the_model() -> None:
    place = a_target({**NATIVE, "path": "azure", "auth": "api-key"}, base_url="https://me.openai.azure.com")
    request = PROVIDER.request(ask({"model": "mine", "input": "Hi"}), place)
    assert request.target == b"/openai/v1/responses"
    assert json.loads(request.body)["model"] == "gpt-x"


def test_a_whole_response_passes_as_it_came_and_its_usage_is_read() -> None:
    document = response("completed", output=[message("Hello, world.")], usage=USAGE)
    body = json.dumps(document, indent=1).encode()
    answer = PROVIDER.answer(ask(ODD), target(), body)
    assert (answer.body, answer.usage) == (body, Usage(7, 3, 0, 2))
    check_response(json.loads(answer.body))


@pytest.mark.parametrize(
    ("output", "tokens"),
    [
        ([message("a" * 40)], 10),
        ([{"type": "function_call", "id": "x" * 99, "name": "f", "arguments": "a" * 8}], 2),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a" * 8}]}], 2),
        ([], 0),
        ("what", 0),
        ([None, 7], 0),
    ],
)
def test_an_answer_without_usage_is_estimated_by_its_text(output: Any, tokens: int) -> None:
    answer = read_response(json.dumps(response("completed", output=output)).encode(), a_target())
    assert answer.usage is None
    assert answer.produced() == tokens


def test_a_failed_response_that_cost_nothing_is_an_error() -> None:
    failed = response("failed", error={"code": "rate_limit_exceeded", "message": "slow down"})
    for usage in (None, {**USAGE, "input_tokens": 0, "output_tokens": 0}):
        with pytest.raises(GatewayError, match="slow down") as raised:
            read_response(json.dumps({**failed, "usage": usage}).encode(), a_target())
        assert raised.value.status == 429


def test_a_failed_response_that_was_paid_for_is_its_clients_to_see() -> None:
    error = {"code": "server_error", "message": f"Died with {KEY}."}
    answer = read_response(json.dumps(response("failed", error=error, usage=USAGE)).encode(), a_target())
    assert answer.usage == Usage(7, 3, 0, 2)
    assert check_response(json.loads(answer.body)).status == "failed"
    assert KEY.encode() not in answer.body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"<html>", b'{"usage":[}', b'{"error":"what"}', b'{"usage":"x","error":1}']
)
def test_what_cannot_be_read_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(GatewayError) as raised:
        read_response(body, a_target())
    assert raised.value.status == 502
