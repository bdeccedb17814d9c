"""What Gemini is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.headers import first
from providers._gemini_request import chat_body
from providers._gemini_signatures import UNSIGNED, Signatures
from providers.gemini import PROVIDER
from tests.providers.calls import a_call
from tests.providers.gemini import ACCOUNT, CLOCK, USER, WEATHER, asked, called, contents, studio, vertex


def test_a_plain_question_is_asked_and_nothing_else() -> None:
    assert asked() == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_the_path_names_model_and_method_and_the_key_has_a_header_of_its_own() -> None:
    request = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), studio())
    assert request.origin.host == "generativelanguage.googleapis.com"
    assert request.target == b"/v1beta/models/gemini-3.6-flash:generateContent"
    assert first(request.headers, b"x-goog-api-key") == b"g-key-0123456789"
    assert first(request.headers, b"authorization") is None
    streamed = PROVIDER.request(a_call({"model": "m", "messages": [USER], "stream": True}), studio())
    assert streamed.target == b"/v1beta/models/gemini-3.6-flash:streamGenerateContent?alt=sse"
    assert b"stream" not in streamed.body


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("models/gemini-3.6-flash", b"/v1beta/models/gemini-3.6-flash:generateContent"),
        ("tunedModels/mine", b"/v1beta/tunedModels/mine:generateContent"),
        ("a b?c", b"/v1beta/models/a%20b%3Fc:generateContent"),
    ],
)
def test_models_may_be_called_by_their_full_names(model: str, path: bytes) -> None:
    assert PROVIDER.request(a_call({"model": "m", "messages": [USER]}), studio(model)).target == path


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_vertex_has_a_host_for_every_location(location: str, host: str) -> None:
    target = vertex(account=replace(ACCOUNT, location=location))
    request = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), target)
    assert request.origin.host == host
    path = f"/v1/projects/proj/locations/{location}/publishers/google/models/gemini-3.6-flash:generateContent"
    assert request.target == path.encode()
    assert first(request.headers, b"x-goog-api-key") is None


def test_another_host_than_googles_stays_as_it_is_configured() -> None:
    request = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), vertex(base_url="http://127.0.0.1:9/v1"))
    assert request.origin.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        ("google/gemini-2.5-pro", b"/locations/europe-west4/publishers/google/models/gemini-2.5-pro:generateContent"),
        ("publishers/google/models/x", b"/locations/europe-west4/publishers/google/models/x:generateContent"),
        ("projects/1/locations/eu/endpoints/2", b"/v1/projects/1/locations/eu/endpoints/2:generateContent"),
    ],
)
def test_vertex_models_may_be_called_by_their_full_names(model: str, ends: bytes) -> None:
    assert PROVIDER.request(a_call({"model": "m", "messages": [USER]}), vertex(model)).target.endswith(ends)


def test_a_key_goes_with_vertex_too() -> None:
    request = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), vertex(account=None))
    assert request.target == b"/v1/publishers/google/models/gemini-3.6-flash:generateContent"


def test_system_and_developer_messages_are_the_instruction() -> None:
    told = asked(messages=[{"role": "system", "content": "Be brief."}, USER, {"role": "developer", "content": "Kind."}])
    assert told["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Kind."}]}
    assert [content["role"] for content in told["contents"]] == ["user"]


def test_a_system_message_alone_is_asked_as_the_user_would() -> None:
    told = asked(messages=[{"role": "system", "content": "Say hi."}])
    assert told == {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}


def test_neighbours_of_one_role_are_one_turn_and_the_user_is_first() -> None:
    told = contents(
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "One"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None},
    )
    assert told == [
        {"role": "user", "parts": [{"text": " "}]},
        {"role": "model", "parts": [{"text": "Welcome."}]},
        {"role": "user", "parts": [{"text": "One"}, {"text": " "}]},
    ]


def test_pictures_sounds_and_documents_go_inline_and_by_url() -> None:
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.webp?x=1"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/picture"}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.csv"}},
        {"type": "file", "file": {"file_id": "https://example.com/a.mp4"}},
    ]
    (content,) = contents({"role": "user", "content": parts})
    assert content["parts"] == [
        {"text": "Look"},
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
        {"fileData": {"fileUri": "https://example.com/a.webp?x=1", "mimeType": "image/webp"}},
        {"fileData": {"fileUri": "https://example.com/picture", "mimeType": "image/jpeg"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "QUJD"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "QUJD"}},
        {"fileData": {"fileUri": "https://example.com/a.csv", "mimeType": "text/csv"}},
        {"fileData": {"fileUri": "https://example.com/a.mp4", "mimeType": "video/mp4"}},
    ]


def test_parallel_calls_and_their_results_keep_ids_names_and_order() -> None:
    told = contents(
        USER,
        {"role": "assistant", "content": "Wait.", "tool_calls": [called("a"), called("b", "clock", "")]},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "user", "content": "And?"},
        target=studio("gemini-2.5-pro"),
    )
    assert told[1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Wait."},
                {"functionCall": {"id": "a", "name": "weather", "args": {"city": "Oslo"}}},
                {"functionCall": {"id": "b", "name": "clock", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "weather", "response": {"result": "rain"}}},
                {"functionResponse": {"id": "b", "name": "clock", "response": {"result": "noon"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


def test_numbers_in_arguments_stay_as_the_model_wrote_them() -> None:
    call = a_call(
        {
            "model": "m",
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [called("a", arguments='{"n": 9007199254740993, "x": 1.50}')]},
                {"role": "tool", "tool_call_id": "a", "content": "ok"},
            ],
        }
    )
    body = chat_body(call, studio(), Signatures())
    assert b"9007199254740993" in body
    assert b"1.50" in body


def test_a_picture_that_a_tool_gave_is_part_of_its_result_or_beside_it() -> None:
    picture = [{"type": "text", "text": "Here"}, {"type": "image_url", "image_url": "data:image/png;base64,QUJD"}]
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [called("a")]},
        {"role": "tool", "tool_call_id": "a", "content": picture},
    ]
    inline = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    response = {"id": "a", "name": "weather", "response": {"result": "Here"}}
    assert contents(*messages)[-1]["parts"] == [{"functionResponse": {**response, "parts": [inline]}}]
    older = contents(*messages, target=studio("gemini-2.5-flash"))
    assert older[-1]["parts"] == [{"functionResponse": response}, inline]


def test_signatures_come_back_from_the_client_from_memory_or_are_the_documented_placeholder() -> None:
    signatures = Signatures()
    signatures.remember(a_call({}), "remembered", "c2ln")
    extra = {"extra_content": {"google": {"thought_signature": "aGFuZGVk"}}}

    def first_signature(call: dict[str, Any], model: str = "gemini-3.1-pro-preview") -> str | None:
        told = contents(
            USER,
            {"role": "assistant", "tool_calls": [call, called("second")]},
            {"role": "tool", "tool_call_id": call["id"], "content": "x"},
            {"role": "tool", "tool_call_id": "second", "content": "y"},
            target=studio(model),
            signatures=signatures,
        )
        assert "thoughtSignature" not in told[1]["parts"][1]
        signature: str | None = told[1]["parts"][0].get("thoughtSignature")
        return signature

    assert first_signature(called("a", **extra)) == "aGFuZGVk"
    assert first_signature(called("remembered")) == "c2ln"
    assert first_signature(called("elsewhere")) == UNSIGNED
    assert first_signature(called("elsewhere"), "gemini-flash-latest") == UNSIGNED
    assert first_signature(called("elsewhere"), "gemini-2.5-flash") is None
    assert first_signature(called("elsewhere"), "gemma-3-27b-it") is None


def test_the_signature_of_a_text_comes_back_with_it() -> None:
    answer = {"role": "assistant", "content": "Yes.", "extra_content": {"google": {"thought_signature": "c2ln"}}}
    told = contents(USER, answer, USER)
    assert told[1]["parts"] == [{"text": "Yes.", "thoughtSignature": "c2ln"}]


def test_signatures_are_the_callers_own_and_the_oldest_make_room() -> None:
    signatures = Signatures(most=2, most_bytes=1_000)
    call = a_call({})
    other = replace(call, principal=replace(call.principal, key_id="other"))
    for identity in ("a", "b", "c"):
        signatures.remember(call, identity, "x")
    assert [signatures.recall(call, identity) for identity in ("a", "b", "c")] == ["", "x", "x"]
    assert signatures.recall(other, "c") == ""
    signatures.remember(call, "large", "y" * 993)
    assert [signatures.recall(call, identity) for identity in ("b", "c", "large")] == ["", "", "y" * 993]


def test_tools_keep_their_schema_less_what_is_refused() -> None:
    (tools,) = asked(tools=[WEATHER, CLOCK])["tools"]
    assert tools["functionDeclarations"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "parametersJsonSchema": {
                "type": "object",
                "properties": {
                    "city": {"type": ["string", "null"]},
                    "unit": {"enum": ["celsius"]},
                    "const": {"type": "string"},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
        {"name": "clock"},
    ]


@pytest.mark.parametrize(
    ("choice", "config", "shown"),
    [
        ("auto", {"mode": "AUTO"}, ["weather", "clock"]),
        ("none", {"mode": "NONE"}, ["weather", "clock"]),
        ("required", {"mode": "ANY"}, ["weather", "clock"]),
        (
            {"type": "function", "function": {"name": "clock"}},
            {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            ["clock"],
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}},
            {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            ["clock"],
        ),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, {"mode": "AUTO"}, ["clock"]),
    ],
)
def test_every_tool_choice_is_told(choice: object, config: object, shown: list[str]) -> None:
    told = asked(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert told["toolConfig"] == {"functionCallingConfig": config}
    assert [tool["name"] for tool in told["tools"][0]["functionDeclarations"]] == shown


def test_a_web_search_is_googles_own_tool() -> None:
    assert asked(web_search_options={})["tools"] == [{"googleSearch": {}}]
