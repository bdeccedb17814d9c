"""Ollama's targets and lines, as tests of its dialect need them."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.deployment import Target
from tests.providers.calls import a_target


def local(model: str = "qwen3:8b", key: str | None = None) -> Target:
    return a_target(dialect="ollama", base_url="http://127.0.0.1:11434", upstream_model=model, key=key)


def line(content: str = "", *, done: str | None = None, **members: Any) -> dict[str, Any]:
    """One line of an answer; `done` is the reason of the last. Members of the message begin with `message_`."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {name.removeprefix("message_"): value for name, value in members.items() if name.startswith("message_")}
    told: dict[str, Any] = {"model": "qwen3:8b", "created_at": "2026-11-26T12:00:00.123456Z", "message": message}
    told["done"] = done is not None
    if done:
        told["done_reason"] = done
    return {**told, **{name: value for name, value in members.items() if not name.startswith("message_")}}


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(it, ensure_ascii=False).encode() + b"\n" for it in documents)


COUNTED = {"total_duration": 5, "prompt_eval_count": 11, "prompt_eval_duration": 2, "eval_count": 4, "eval_duration": 3}
