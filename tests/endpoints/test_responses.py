"""What the endpoint asks of a body, and what it says of the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.limits import LimitSet
from gateway.endpoints.responses import ENDPOINT
from policies.quota import create
from tests.support.calls import a_call, a_limit, a_model, a_route, a_target

STORED: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"conversation": {"id": "conv_1"}},
    {"prompt": {"id": "pmpt_1"}},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
]
BUDGET = LimitSet(quota=(a_limit("tokens", 1_000_000),))


def ask(window: int | None = None, limits: LimitSet | None = None, **members: Any) -> Any:
    route = a_route(a_target(a_model(context_window=window)))
    return a_call({"model": "m", "input": "Hi", **members}, endpoint=ENDPOINT, route=route, limits=limits)


def examine(**members: Any) -> None:
    assert ENDPOINT.examine is not None
    ENDPOINT.examine(a_call({"model": "m", **members}, endpoint=ENDPOINT).body)


@pytest.mark.parametrize("members", [{}, {"input": None}, {"instructions": "x"}])
def test_something_must_be_asked(members: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="'input' is missing"):
        examine(**members)


def test_what_the_upstream_keeps_can_stand_for_the_input() -> None:
    examine(previous_response_id="resp_1")
    examine(prompt={"id": "pmpt_1"})


def test_what_is_answered_behind_the_calls_back_cannot_be_counted() -> None:
    with pytest.raises(GatewayError, match="background") as refused:
        examine(input="Hi", background=True)
    assert (refused.value.status, refused.value.param) == (400, "background")
    examine(input="Hi", background=False)


def test_a_prompt_that_is_all_in_the_body_is_bounded_by_it() -> None:
    call = ask(window=100_000)
    assert call.demand.prompt_tokens == len(call.body.raw)
    assert call.demand.bounded


@pytest.mark.parametrize("members", STORED, ids=str)
def test_a_prompt_that_the_body_only_refers_to_may_fill_the_window(members: dict[str, Any]) -> None:
    demand = ask(window=100_000, **members).demand
    assert (demand.prompt_tokens, demand.bounded) == (100_000, True)


@pytest.mark.parametrize("members", STORED, ids=str)
def test_a_budget_refuses_a_prompt_that_nothing_bounds(members: dict[str, Any]) -> None:
    call = ask(limits=BUDGET, **members)
    assert not call.demand.bounded
    with pytest.raises(GatewayError, match="context_window") as refused:
        create({}).check(call)
    assert refused.value.status == 400
    create({"estimate": "balanced"}).check(call)
    create({}).check(ask(**members))  # nothing binds this one
    create({}).check(ask(window=100_000, limits=BUDGET, **members))


IMAGE = "data:image/png;base64," + "A" * 300_000


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE, "detail": "auto"}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": IMAGE}]},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": IMAGE}},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 300_000, "format": "wav"}}]},
    ],
    ids=["image", "image of a tool", "screenshot", "audio"],
)
def test_media_count_by_the_part_and_not_by_their_bytes(item: dict[str, Any]) -> None:
    demand = ask(input=[{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}]}, item]).demand
    assert 50_000 < demand.prompt_tokens < 51_000
    assert 1_000 <= demand.likely_prompt < 1_200


def test_a_file_counts_by_its_bytes_where_these_are_more() -> None:
    data = "data:text/plain;base64," + "A" * 300_000
    part = {"type": "input_file", "filename": "a.txt", "file_data": data}
    assert 300_000 <= ask(input=[{"role": "user", "content": [part]}]).demand.prompt_tokens < 301_000


def test_text_that_names_media_is_only_text() -> None:
    text = json.dumps({"type": "input_image", "image_url": IMAGE})
    demand = ask(input=[{"role": "user", "content": [{"type": "input_text", "text": text}]}]).demand
    assert demand.prompt_tokens > 300_000


def test_an_output_cap_is_what_the_client_says() -> None:
    assert ask(max_output_tokens=77).demand.output_cap == 77
