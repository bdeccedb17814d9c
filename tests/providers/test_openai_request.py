"""What an upstream is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.headers import first
from gateway.core.upstream import Origin, UpstreamRequest
from providers.openai import PROVIDER
from tests.providers.calls import CHAT, COMPLETIONS, EMBEDDINGS, KEY, a_call, a_target

MESSAGES = [{"role": "user", "content": "hi"}]


def asked(body: Any, quirks: dict[str, Any] | None = None, **call: Any) -> dict[str, Any]:
    request = PROVIDER.request(a_call(body, **call), a_target(quirks))
    document: dict[str, Any] = json.loads(request.body)
    return document


def capped(output: int | None, requested: int | None = None, *, relied_on: bool = False) -> Demand:
    return Demand(requested_cap=requested, output_cap=output, relies=relied_on)


def caps(sent: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if name not in ("model", "prompt", "messages")}


def test_a_body_that_needs_no_change_is_sent_as_the_client_wrote_it() -> None:
    raw = b'{ "model" : "gpt-x", "x": 9007199254740993, "y":0.10, "messages":[{"role":"user","content":"\\u00e9"}] }'
    assert PROVIDER.request(a_call(raw), a_target()).body == raw


def test_only_the_members_that_must_change_do() -> None:
    raw = b'{"model":"gpt-x","seed":9007199254740993,"stream":true,"messages":[{"content":"\\u00e9","z":1.0}]}'
    body = PROVIDER.request(a_call(raw), a_target(upstream_model="org/m:free")).body
    assert b'"seed":9007199254740993' in body
    assert b'"messages":[{"content":"\\u00e9","z":1.0}]' in body
    assert json.loads(body)["model"] == "org/m:free"


def test_the_request_goes_below_the_base_url() -> None:
    request = PROVIDER.request(a_call({"model": "gpt-x"}), a_target())
    assert request.origin == Origin("https", "llm.corp.example", 8443)
    assert (request.method, request.target) == (b"POST", b"/v1/chat/completions")
    plain = PROVIDER.request(a_call({"model": "gpt-x"}, endpoint=EMBEDDINGS), a_target(base_url="http://[::1]/"))
    assert (plain.origin, plain.target) == (Origin("http", "::1", 80), b"/embeddings")


def test_azure_names_the_deployment_in_the_path_and_the_key_in_its_own_header() -> None:
    quirks = {"path": "azure", "api_version": "2025-01-01-preview", "auth": "api-key"}
    target = a_target(quirks, base_url="https://x.openai.azure.example", upstream_model="gpt 4/o")
    request = PROVIDER.request(a_call({"model": "gpt-x"}), target)
    path = b"/openai/deployments/gpt%204%2Fo/chat/completions?api-version=2025-01-01-preview"
    assert request.target == path
    assert first(request.headers, b"api-key") == KEY.encode()
    assert first(request.headers, b"authorization") is None


def test_of_the_clients_headers_only_harmless_ones_are_passed_on() -> None:
    headers = [(name, b"client") for name in FORBIDDEN]
    headers += [(b"traceparent", b"00-1"), (b"openai-beta", b"b"), (b"x-client-request-id", b"c")]
    request = PROVIDER.request(a_call({"model": "gpt-x"}, headers=headers), a_target())
    assert b"client" not in [value for _, value in request.headers]
    assert first(request.headers, b"traceparent") == b"00-1"
    assert first(request.headers, b"openai-beta") == b"b"
    assert first(request.headers, b"x-request-id") == b"req_1"
    assert first(request.headers, b"authorization") == b"Bearer " + KEY.encode()
    assert first(request.headers, b"accept-encoding") == b"identity"


FORBIDDEN = [
    b"authorization",
    b"x-api-key",
    b"cookie",
    b"x-forwarded-for",
    b"openai-organization",
    b"openai-project",
    b"idempotency-key",
    b"host",
    b"x-request-id",
    b"user-agent",
]


def test_configured_headers_win() -> None:
    target = a_target(headers={"OpenAI-Beta": "theirs", "Authorization": "Token t"})
    request = PROVIDER.request(a_call({"model": "gpt-x"}, headers=[(b"openai-beta", b"b")]), target)
    assert [value for name, value in request.headers if name in (b"openai-beta", b"authorization")] == [
        b"Token t",
        b"theirs",
    ]


def test_without_a_key_there_is_no_authorization() -> None:
    request = PROVIDER.request(a_call({"model": "gpt-x"}), a_target(key=None))
    assert first(request.headers, b"authorization") is None


@pytest.mark.parametrize(
    ("streamed", "accept"), [(True, b"text/event-stream"), (False, b"application/json")], ids=["stream", "whole"]
)
def test_a_target_is_prepared_once_and_serves_both_kinds_of_call(streamed: bool, accept: bytes) -> None:
    target = a_target()
    for flag in (not streamed, streamed):
        request = PROVIDER.request(a_call({"model": "gpt-x", "stream": flag}), target)
    assert first(request.headers, b"accept") == accept
    assert len(target.memo) == 1


def test_streams_are_asked_for_usage_whatever_the_client_wanted() -> None:
    assert asked({"model": "gpt-x", "stream": True})["stream_options"] == {"include_usage": True}
    given = {"model": "gpt-x", "stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}}
    assert asked(given)["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert asked({**given, "stream_options": None})["stream_options"] == {"include_usage": True}


def test_a_client_that_asks_for_usage_itself_changes_nothing() -> None:
    raw = b'{"model":"gpt-x", "stream":true, "stream_options":{"include_usage": true}}'
    assert PROVIDER.request(a_call(raw), a_target()).body == raw


@pytest.mark.parametrize("quirks", [{}, {"stream_options": False}], ids=["unstreamed", "refused by the vendor"])
def test_stream_options_are_not_sent_where_they_are_refused(quirks: dict[str, Any]) -> None:
    body = {"model": "gpt-x", "stream": bool(quirks), "stream_options": {"include_usage": True}}
    assert "stream_options" not in asked(body, quirks)
    assert "stream_options" not in asked({"model": "gpt-x", "stream": bool(quirks)}, quirks)


def test_stream_options_that_are_no_object_are_the_callers_mistake() -> None:
    with pytest.raises(GatewayError) as caught:
        asked({"model": "gpt-x", "stream": True, "stream_options": 3})
    assert (caught.value.status, caught.value.param) == (400, "stream_options")


NEWER = {"max_tokens_field": "max_completion_tokens"}
RENAMED = {"rename": {"max_completion_tokens": "max_tokens"}}


@pytest.mark.parametrize(
    ("body", "quirks", "expected"),
    [
        ({}, {}, {"max_tokens": 50}),
        ({}, NEWER, {"max_completion_tokens": 50}),
        ({"max_tokens": 99}, NEWER, {"max_tokens": 50}),
        ({"max_completion_tokens": 99}, {}, {"max_tokens": 50}),
        ({"max_completion_tokens": 99}, NEWER, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 99, "max_tokens": 70}, {}, {"max_tokens": 50}),
        ({"max_completion_tokens": 99, "max_tokens": 70}, NEWER, {"max_completion_tokens": 50, "max_tokens": 50}),
        ({"max_completion_tokens": 16, "max_tokens": 99}, {}, {"max_tokens": 16}),
        ({"max_completion_tokens": None, "max_tokens": 70}, {}, {"max_completion_tokens": None, "max_tokens": 50}),
        ({"max_completion_tokens": 99}, RENAMED, {"max_tokens": 50}),
        ({"max_tokens": 99}, NEWER | {"drop": ["max_tokens"]}, {"max_completion_tokens": 50}),
    ],
)
def test_a_lowered_cap_leaves_none_above_it_under_any_name(
    body: dict[str, Any], quirks: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert caps(asked({"model": "gpt-x", **body}, quirks, demand=capped(50, 99))) == expected


@pytest.mark.parametrize(
    ("body", "quirks", "expected"),
    [
        ({"max_completion_tokens": 50}, {}, {"max_tokens": 50}),
        ({"max_completion_tokens": 50}, RENAMED, {"max_tokens": 50}),
        ({"max_completion_tokens": 16, "max_tokens": 50}, {}, {"max_tokens": 16}),
        ({"max_completion_tokens": 50}, NEWER, {"max_completion_tokens": 50}),
        ({"max_tokens": 50}, NEWER, {"max_tokens": 50}),
        ({"max_tokens": 50}, NEWER | {"drop": ["max_tokens"]}, {"max_completion_tokens": 50}),
        ({"max_tokens": 50}, {"rename": {"max_tokens": "limit"}}, {"limit": 50}),
        ({"max_tokens": 50, "limit": 9000}, {"rename": {"max_tokens": "limit"}}, {"limit": 50}),
    ],
)
def test_a_cap_that_is_relied_on_stands_where_the_vendor_reads_it(
    body: dict[str, Any], quirks: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert caps(asked({"model": "gpt-x", **body}, quirks, demand=capped(50, 50, relied_on=True))) == expected
    stands = {"model": "gpt-x", **body}
    if not {"drop", "rename"} & quirks.keys():
        assert asked(stands, quirks, demand=capped(50, 50)) == stands, "nobody relies on it"


STRANGE = ("max_new_tokens", "max_output_tokens", "max_length", "max_tokens_to_sample", "n_predict", "num_predict")


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_no_other_name_for_the_cap_says_more_than_it(name: str, endpoint: Any) -> None:
    def told(value: Any, demand: Demand) -> Any:
        return caps(asked({"model": "gpt-x", "max_tokens": 50, name: value}, endpoint=endpoint, demand=demand))

    relied_on = capped(50, 50, relied_on=True)
    for more in (51, 10**30, 0, -1, 1e3, 50.0, "9000", True, [1], {}):
        assert told(more, relied_on) == {"max_tokens": 50}, more
    for within in (50, 7, None):
        assert told(within, relied_on) == {"max_tokens": 50, name: within}
    assert told(9000, capped(50, 50)) == {"max_tokens": 50, name: 9000}, "nobody relies on it"


def test_a_name_of_the_newer_api_says_no_more_where_the_endpoint_does_not_have_it() -> None:
    body = {"model": "gpt-x", "prompt": "hi", "max_tokens": 16, "max_completion_tokens": 9000}
    for quirks in ({}, NEWER, RENAMED):
        sent = asked(body, quirks, endpoint=COMPLETIONS, demand=capped(16, 16, relied_on=True))
        assert caps(sent) == {"max_tokens": 16}


def test_a_cap_that_is_relied_on_and_well_said_leaves_the_clients_bytes_alone() -> None:
    for raw, quirks in (
        (b'{"model":"gpt-x", "max_tokens": 50}', {}),
        (b'{"model":"gpt-x", "max_tokens": 50}', NEWER),
        (b'{"model":"gpt-x", "max_completion_tokens": 50}', NEWER),
    ):
        demand = capped(50, 50, relied_on=True)
        assert PROVIDER.request(a_call(raw, demand=demand), a_target(quirks)).body == raw


def test_a_cap_fits_the_endpoint() -> None:
    assert asked({"model": "gpt-x"}, NEWER, endpoint=COMPLETIONS, demand=capped(5))["max_tokens"] == 5
    assert asked({"model": "gpt-x"}, NEWER, endpoint=EMBEDDINGS, demand=capped(5)) == {"model": "gpt-x"}


def test_the_clients_own_cap_stands_where_nobody_lowered_it() -> None:
    raw = b'{"model":"gpt-x", "max_tokens":99, "max_completion_tokens":98}'
    assert PROVIDER.request(a_call(raw, demand=capped(99, 99)), a_target()).body == raw


def test_no_renamed_member_takes_the_place_of_the_cap_that_is_held() -> None:
    body = {"model": "gpt-x", "prompt": "hi", "max_completion_tokens": 100_000}

    def told(demand: Demand, **members: int) -> dict[str, Any]:
        return caps(asked(body | members, RENAMED, endpoint=COMPLETIONS, demand=demand))

    assert told(capped(16, 16), max_tokens=16) == {"max_tokens": 16}
    assert told(capped(50)) == {"max_tokens": 50}
    assert told(capped(None)) == {"max_tokens": 100_000}, "nothing is held that it could exceed"


def test_what_a_vendor_refuses_is_dropped_and_what_it_calls_otherwise_renamed() -> None:
    quirks = {"drop": ["store", "logit_bias"], "rename": {"seed": "random_seed", "user": "end_user"}}
    sent = asked({"model": "gpt-x", "store": True, "seed": 7, "user": None, "other": 1}, quirks)
    assert sent == {"model": "gpt-x", "random_seed": 7, "other": 1}
    assert asked({"model": "gpt-x", "seed": 7, "random_seed": 8}, quirks) == {"model": "gpt-x", "random_seed": 8}


def test_the_developer_role_becomes_system_only_where_it_must() -> None:
    raw = (
        b'{"model":"gpt-x","messages":[{"role":"developer","content":"a \\u00e9","n":1.0},'
        b'{"role":"user","content":"the \\"developer\\" role","name":"developer"}]}'
    )
    assert PROVIDER.request(a_call(raw), a_target()).body == raw
    body = PROVIDER.request(a_call(raw), a_target({"developer_role": "system"})).body
    assert body == raw.replace(b'"role":"developer"', b'"role":"system"')


def test_messages_that_are_no_list_are_left_to_the_upstream() -> None:
    sent = asked({"model": "gpt-x", "messages": {"role": "developer"}}, {"developer_role": "system"})
    assert sent["messages"] == {"role": "developer"}


def test_a_request_does_not_print_its_credential() -> None:
    request: UpstreamRequest = PROVIDER.request(a_call({"model": "gpt-x"}), a_target())
    assert KEY not in repr(request)
