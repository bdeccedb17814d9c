"""The estimate is a bound: no tokenizer makes more of a body than is reserved for it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.call import Demand
from gateway.core.deployment import Route
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError
from gateway.core.limits import LimitSet
from gateway.core.money import Price, PriceSchedule
from gateway.endpoints import audio_speech, audio_transcriptions, images_generations, rerank
from gateway.estimate import likely_prompt
from tests.support.calls import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    MESSAGES,
    a_call,
    a_limit,
    a_model,
    a_route,
    a_target,
    priced,
)

IMAGE = "data:image/png;base64," + "A" * 300_000


def chat(content: Any, **members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **members}


def worst_case(text: str) -> int:
    """A tokenizer that knows no word: one token for every byte."""
    return len(text.encode())


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, st.booleans(), st.lists(texts, max_size=3))
def test_no_text_has_more_tokens_than_the_bound_however_it_is_escaped(
    text: str, ascii_only: bool, parts: list[str]
) -> None:
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": part} for part in parts]},
    ]
    body = json.dumps({"model": "m", "messages": messages}, ensure_ascii=ascii_only).encode()
    assert a_call(body).demand.prompt_tokens >= worst_case(text) + sum(map(worst_case, parts))
    raw = json.dumps({"model": "m", "prompt": [text, *parts]}, ensure_ascii=ascii_only).encode()
    assert a_call(raw, endpoint=COMPLETIONS).demand.prompt_tokens >= worst_case(text) + sum(map(worst_case, parts))


@given(st.lists(st.integers(0, 200_000), min_size=1))
def test_a_prompt_of_token_numbers_has_no_more_tokens_than_the_bound(numbers: list[int]) -> None:
    for endpoint, member in ((COMPLETIONS, "prompt"), (EMBEDDINGS, "input")):
        call = a_call({"model": "m", member: numbers}, endpoint=endpoint)
        assert call.demand.prompt_tokens >= len(numbers)


def test_tools_and_formats_count_as_prompt() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 500, "parameters": {}}}
    plain = a_call(chat("hi")).demand.prompt_tokens
    assert a_call(chat("hi", tools=[tool])).demand.prompt_tokens >= plain + 500
    assert (
        a_call(chat("hi", response_format={"type": "json_schema", "x": "y" * 500})).demand.prompt_tokens > plain + 500
    )


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_text_in_a_member_that_the_gateway_does_not_know_is_held_too(endpoint: Any) -> None:
    body = {"model": "m", "messages": [1], "prompt": "hi", "input": "hi", "documents": [{"text": "x" * 200_000}]}
    call = a_call(body, endpoint=endpoint)
    assert call.demand.prompt_tokens > 200_000
    assert call.demand.likely_prompt < 10, "the guess is by the members that are known to be the prompt"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": IMAGE}},
        {"type": "image_url", "image_url": {"url": "https://example.com/small.png"}},
        {"type": "input_audio", "input_audio": {"data": "A" * 300_000, "format": "wav"}},
        {"type": "file", "file": {"file_data": "A" * 30_000, "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": IMAGE}},
        {"image_url": {"url": IMAGE}},
    ],
    ids=["image", "linked image", "audio", "short file", "known file", "video", "type left out"],
)
def test_media_count_by_a_flat_bound_and_not_by_their_length(part: dict[str, Any]) -> None:
    bound = a_call(chat([{"type": "text", "text": "What is this?"}, part])).demand.prompt_tokens
    assert 50_000 <= bound < 51_000
    two = a_call(chat([part, part])).demand.prompt_tokens
    assert 100_000 <= two < 101_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 300_000, "filename": "a.pdf"}},
        {"type": "image_url", "image_url": {"url": "data:application/pdf;base64," + "A" * 300_000}},
        {"type": "document", "document": {"type": "text", "data": "A" * 300_000}},
        {"type": "file", "file": {"file_data": "\u00e9" * 300_000}},
    ],
    ids=["file", "file as an image", "text as data", "not ASCII"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_long_file_counts_by_its_length(part: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps(chat([part, {"type": "image_url", "image_url": {"url": IMAGE}}]), ensure_ascii=ascii_only).encode()
    call = a_call(raw)
    assert len(raw) - len(IMAGE) + 50_000 <= call.demand.prompt_tokens < len(raw) - len(IMAGE) + 51_000
    assert call.demand.likely_prompt <= call.demand.prompt_tokens


def test_an_escaped_name_hides_no_image() -> None:
    body = json.dumps(chat([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]))
    for plain, hidden in (("image_url", r"image\u005furl"), ("image_url", r"im\u0061ge\u005Furl")):
        call = a_call(body.replace(plain, hidden).encode())
        assert call.demand.prompt_tokens >= 50_000


def test_text_in_a_part_that_claims_to_be_media_still_counts() -> None:
    part = {"type": "file", "file": {"notes": "x" * 200_000}, "text": "y" * 100_000}
    assert a_call(chat([part])).demand.prompt_tokens >= 300_000


def test_a_mention_of_media_is_only_text() -> None:
    assert a_call(chat('use "image_url" here')).demand.prompt_tokens < 200
    assert a_call(chat([{"type": "text", "text": '"file"'}, {"type": None, "text": "x"}])).demand.prompt_tokens < 200


@pytest.mark.parametrize("messages", [[], [1], [None], [{}], [{"content": [1, None, []]}], "text", {"a": 1}, 7])
def test_odd_messages_are_bounded_all_the_same(messages: Any) -> None:
    body = json.dumps({"model": "m", "messages": messages, "x": "image_url"}).encode()
    assert a_call(body).demand.prompt_tokens >= 1


def test_a_context_window_bounds_the_prompt_only_where_every_target_has_one() -> None:
    def bound(*windows: int | None) -> int:
        targets = [a_target(a_model(context_window=window)) for window in windows]
        return a_call(chat("x" * 10_000), route=Route("m", tuple(targets), (1,) * len(targets))).demand.prompt_tokens

    assert bound(4_096) == 4_096
    assert bound(4_096, 8_192) == 8_192, "the larger one may take it"
    assert bound(4_096, None) > 10_000
    assert bound(100_000) > 10_000


@pytest.mark.parametrize(
    ("endpoint", "members", "choices"),
    [
        (CHAT, {}, 1),
        (CHAT, {"n": None}, 1),
        (CHAT, {"n": 5}, 5),
        (CHAT, {"n": 2, "best_of": 7}, 7),
        (COMPLETIONS, {"prompt": "one"}, 1),
        (COMPLETIONS, {"prompt": ["one", "two"]}, 2),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETIONS, {"prompt": []}, 1),
        (COMPLETIONS, {"prompt": ["one", "two"], "n": 3}, 6),
        (COMPLETIONS, {"prompt": "one", "n": 2, "best_of": 7}, 7),
        (COMPLETIONS, {"prompt": "one", "n": 7, "best_of": 2}, 7),
        (EMBEDDINGS, {"input": ["one", "two"], "n": 9}, 1),
    ],
)
def test_every_answer_that_is_asked_for_is_counted(endpoint: Any, members: dict[str, Any], choices: int) -> None:
    call = a_call({"model": "m", "messages": [1], **members}, endpoint=endpoint)
    assert call.demand.choices == choices


@pytest.mark.parametrize(
    ("members", "cap"),
    [
        ({"max_completion_tokens": 16, "max_tokens": 100_000}, 100_000),
        ({"max_completion_tokens": 100_000, "max_tokens": 16}, 100_000),
        ({"max_completion_tokens": None, "max_tokens": 16}, 16),
        ({"max_completion_tokens": None}, None),
    ],
)
def test_of_several_caps_the_largest_is_held_since_an_upstream_may_know_only_that_one(
    members: dict[str, int | None], cap: int | None
) -> None:
    demand = a_call(chat("hi", **members)).demand
    assert (demand.requested_cap, demand.output_cap) == (cap, cap)
    assert demand.amounts["tokens"] == demand.prompt_tokens + (cap or 0)


def test_the_cap_of_the_client_counts_for_each_choice() -> None:
    demand = a_call(chat("hi", max_completion_tokens=10, n=3)).demand
    assert (demand.requested_cap, demand.output_cap) == (10, 10)
    assert demand.amounts["tokens"] == demand.prompt_tokens + 30
    assert demand.cap_to_write is None, "the upstream has it from the client"
    demand.cap_output(50)
    assert demand.output_cap == 10, "a cap never rises"
    demand.cap_output(4)
    assert demand.cap_to_write == 4
    assert demand.amounts["tokens"] == demand.prompt_tokens + 12
    assert a_call(chat("hi", max_tokens=7)).demand.requested_cap == 7
    assert a_call({"model": "m", "input": "x", "max_tokens": 7}, endpoint=EMBEDDINGS).demand.requested_cap is None


def test_the_dearest_target_sets_the_price() -> None:
    cheap, dear = priced(1_000_000, 9_000_000), priced(2_000_000, 5_000_000)
    route = a_route(a_target(a_model(prices=cheap)), fallbacks=[a_target(a_model(prices=dear))])
    demand = a_call(chat("hi", max_tokens=10), route=route).demand
    worst = Price(2_000_000, 9_000_000)
    assert demand.amounts["cost"] == worst.cost(demand.prompt_tokens, 10)
    alone = a_call(chat("hi"), route=a_route(a_target(a_model(prices=cheap)))).demand
    assert alone.price.version == "p1"


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": "many"},
        {"max_tokens": True},
        {"n": 1.5},
        {"max_tokens": 2**31 + 1},
        {"max_tokens": 0},
        {"max_completion_tokens": 0, "max_tokens": 5},
    ],
)
def test_members_that_make_no_sense_are_refused_by_name(members: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as refused:
        a_call(chat("hi", **members))
    assert (refused.value.status, refused.value.param) == (400, next(iter(members)))


def test_the_guess_is_within_the_bound_and_never_nothing() -> None:
    call = a_call(chat("x" * 4_000))
    assert 1_000 <= call.demand.likely_prompt <= call.demand.prompt_tokens // 2
    assert a_call({"model": "m", "prompt": ""}, endpoint=COMPLETIONS).demand.likely_prompt == 1


SOLD_BY_IMAGE = PriceSchedule(((0.0, Price(version="p1", per_image=40_000_000_000)),))
SOLD_BY_TOKEN = priced(5_000_000, 40_000_000)


def bound(endpoint: Inference, body: dict[str, Any], *prices: PriceSchedule) -> Demand:
    targets = [a_target(a_model(prices=each)) for each in prices or (SOLD_BY_TOKEN,)]
    return a_call({"model": "m", **body}, endpoint=endpoint, route=a_route(*targets)).demand


def test_images_that_are_sold_by_the_image_are_held_to_the_micro_dollar() -> None:
    demand = bound(images_generations.ENDPOINT, {"prompt": "x", "n": 3}, SOLD_BY_IMAGE)
    assert (demand.unit, demand.units, demand.amounts["cost"]) == ("image", 3, 120_000)
    assert demand.amounts["tokens"] < 100, "no token of them is counted"


def test_images_that_may_be_sold_by_the_token_are_held_with_all_they_may_take() -> None:
    demand = bound(images_generations.ENDPOINT, {"prompt": "x", "n": 2, "partial_images": 3})
    assert demand.amounts["tokens"] >= 2 * (8_320 + 300)
    assert demand.amounts["cost"] >= 2 * 8_320 * 40
    mixed = bound(images_generations.ENDPOINT, {"prompt": "x"}, SOLD_BY_IMAGE, SOLD_BY_TOKEN)
    assert mixed.amounts["cost"] >= 40_000 + 8_320 * 40, "whichever of its targets the call goes to"


def test_images_sold_by_the_image_hold_tokens_where_somebody_counts_them() -> None:
    """An upstream may report tokens all the same, and then they count."""
    limits = LimitSet(quota=(a_limit("tokens", 10**6),))
    route = a_route(a_target(a_model(prices=SOLD_BY_IMAGE)))
    body = {"model": "m", "prompt": "x", "n": 10}
    counted = a_call(body, endpoint=images_generations.ENDPOINT, route=route, limits=limits)
    assert counted.demand.amounts["tokens"] >= 10 * 4210


def test_cached_contents_may_fill_the_window() -> None:
    body = chat("Hi", cached_content="cachedContents/1")
    assert a_call(body, route=a_route(a_target(a_model(context_window=9000)))).demand.prompt_tokens == 9000
    assert not a_call(body).demand.bounded
    assert a_call(chat("a cached one")).demand.bounded


def test_what_a_model_may_write_bounds_what_is_held_for_its_images() -> None:
    def held(*most: int | None) -> int:
        targets = [a_target(a_model(prices=SOLD_BY_TOKEN, max_output_tokens=each)) for each in most]
        call = a_call(
            {"model": "m", "prompt": "x", "n": 2}, endpoint=images_generations.ENDPOINT, route=a_route(*targets)
        )
        return call.demand.expected_output

    assert held(6_240) == 2 * 6_240
    assert held(6_240, 4_000) == 2 * 6_240
    assert held(6_240, None) == held(None) == 2 * 32_768
    assert held(10**6) == 2 * 32_768


def test_speech_is_held_by_its_characters_and_rankings_by_their_searches() -> None:
    assert bound(audio_speech.ENDPOINT, {"input": "Füße"}).units == 4
    documents = ["x"] * 250
    demand = bound(rerank.ENDPOINT, {"query": "q", "documents": documents})
    assert (demand.unit, demand.units, demand.likely_units) == ("search", 3, 3)
    long = bound(rerank.ENDPOINT, {"query": "q", "documents": ["x" * 5_000] * 60})
    assert (long.units, long.likely_units) == (7, 1), "long documents may count as several"
    assert long.prompt_tokens >= 60 * 5_001


def test_sound_is_held_by_its_own_length_where_that_is_known_else_by_the_least_it_can_be_made_of() -> None:
    ears = audio_transcriptions.ENDPOINT
    known = bound(ears, {"file": {"bytes": 1_000_000, "seconds": 31}})
    assert (known.units, known.likely_units) == (31, 31)
    guessed = bound(ears, {"file": {"bytes": 1_000_000, "seconds": None}})
    assert (guessed.units, guessed.likely_units) == (2_000, 63)
    assert bound(ears, {"file": "nonsense"}).units == 1


def test_a_body_that_is_replaced_is_measured_anew() -> None:
    call = a_call({"model": "m", "input": "four"}, endpoint=audio_speech.ENDPOINT)
    assert call.demand.amounts["requests"] == 1
    call.replace_body(call.body.changed({"input": "longer than that"}))
    assert (call.demand.units, call.demand.likely_units) == (16, 16)


def test_who_is_content_with_what_is_likely_holds_the_likely_units() -> None:
    demand = bound(audio_transcriptions.ENDPOINT, {"file": {"bytes": 1_000_000}}, PER_MINUTE)
    assert demand.amounts["cost"] == 200_000
    demand.reserve_likely(1.5, 0)
    assert demand.amounts["cost"] == 9_500, "95 seconds instead of 2,000"


PER_MINUTE = PriceSchedule(((0.0, Price(per_minute=6_000_000_000)),))

DATA = "A" * 300_000
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}


def message(*blocks: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": list(blocks)}], **members}


@pytest.mark.parametrize(
    ("block", "images"),
    [
        (PICTURE, 1),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, 1),
        ({"type": "tool_result", "tool_use_id": "a", "content": [PICTURE, PICTURE]}, 2),
        ({"type": "document", "source": {"type": "content", "content": [PICTURE]}}, 1),
    ],
    ids=["image", "linked image", "images of a tool", "image in a document"],
)
@pytest.mark.parametrize("endpoint", [MESSAGES, CHAT], ids=lambda endpoint: endpoint.name)
def test_anthropics_images_count_by_a_flat_bound(block: dict[str, Any], images: int, endpoint: Any) -> None:
    bound = a_call(message({"type": "text", "text": "What is this?"}, block), endpoint=endpoint).demand.prompt_tokens
    assert images * 50_000 <= bound < images * 50_000 + 1_000


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}},
        {"type": "document", "source": {"type": "text", "media_type": "image/png", "data": DATA}},
        {"type": "tool_result", "tool_use_id": "a", "content": DATA},
        {"type": "thinking", "thinking": DATA, "signature": "s"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"source": {"media_type": "image/png", "data": DATA}}},
    ],
    ids=["PDF", "text that claims to be an image", "a tool's result", "thoughts", "arguments"],
)
def test_whatever_else_anthropics_blocks_hold_counts_by_its_length(block: dict[str, Any]) -> None:
    body = json.dumps(message(block, PICTURE)).encode()
    bound = a_call(body, endpoint=MESSAGES).demand.prompt_tokens
    assert len(body) - len(DATA) + 50_000 - 1_000 <= bound <= len(body) - len(DATA) + 51_000


def test_a_count_of_tokens_holds_none_and_tells_the_guess() -> None:
    call = a_call(message({"type": "text", "text": "x" * 4_000}), endpoint=COUNT_TOKENS)
    assert (call.demand.amounts["tokens"], call.demand.amounts["requests"]) == (0, 1)
    assert call.demand.likely_prompt == 0, "whatever becomes of the call"
    assert 1_000 <= likely_prompt(call) <= 1_100
