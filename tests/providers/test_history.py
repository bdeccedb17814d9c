"""What upstreams that speak OpenAI get of calls that came in another dialect."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.call import Demand
from providers.openai import PROVIDER
from tests.providers.calls import a_call, a_target

MARK = {"type": "ephemeral"}
BODY: dict[str, Any] = {
    "model": "gpt-x",
    "messages": [
        {
            "role": "system",
            "content": [{"type": "text", "text": "One.", "cache_control": MARK}, {"type": "text", "text": "Two."}],
        },
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": MARK}]},
        {"role": "system", "content": "Late."},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "A", "cache_control": MARK}, {"type": "text", "text": "B"}],
            "reasoning_content": "Hm.",
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "system", "content": "Later."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://a.example", "cache_control": 1}}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "f"}, "cache_control": MARK}],
    "cache_control": MARK,
    "top_k": 5,
    "reasoning_effort": "high",
}


def sent(*, translated: bool = True, model: str = "some-model", demand: Demand | None = None, **quirks: Any) -> Any:
    call = replace(a_call(BODY, demand=demand), translated=translated)
    return json.loads(PROVIDER.request(call, a_target(quirks, upstream_model=model)).body)


def test_who_speaks_openai_gets_what_it_asks_for() -> None:
    assert sent(translated=False) == {**BODY, "model": "some-model"}


def test_what_an_upstream_may_refuse_is_left_out_of_other_dialects_calls() -> None:
    told = sent()
    assert told.keys() == {"model", "messages", "tools"}
    assert told["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert told["messages"] == [
        {"role": "system", "content": "One.\n\nTwo."},
        {"role": "user", "content": "Hi\n\nLate."},
        {"role": "assistant", "content": "AB"},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "user", "content": "Later."},
        BODY["messages"][-1],
    ]


def test_what_it_understands_stays() -> None:
    understands = ["cache_control", "reasoning_content", "reasoning_effort", "thinking_blocks", "top_k"]
    assert sent(understands=understands, developer_role="keep") == {**BODY, "model": "some-model"}


@pytest.mark.parametrize(
    ("model", "takes"),
    [("gpt-5.2", True), ("o4-mini", True), ("openai/gpt-oss-120b", True), ("gpt-4o", False), ("llama-3o1", False)],
)
def test_an_effort_goes_to_models_that_take_one(model: str, takes: bool) -> None:
    assert ("reasoning_effort" in sent(model=model)) is takes


def test_the_cap_is_written_in_the_word_that_the_upstream_knows() -> None:
    demand = Demand(requested_cap=None, output_cap=77)
    assert sent(demand=demand)["max_tokens"] == 77
    told = sent(demand=demand, max_tokens_field="max_completion_tokens")
    assert (told["max_completion_tokens"], "max_tokens" in told) == (77, False)
