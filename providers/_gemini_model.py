"""What a Gemini model's name tells: its generation, and how it wants to be told how much to think."""

from __future__ import annotations

import re
from typing import Any

from gateway.core.errors import invalid_request

_GENERATION = re.compile(r"gemini-(\d{1,2})(?:\.(\d{1,2}))?(?!\d)")
_LATEST = re.compile(r"gemini-(?:pro|flash|flash-lite)-latest$")
_THINKS_NOT = re.compile(r"-(?:image|tts|live|native-audio|embedding)")

_BUDGETS = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
"""As Google's own OpenAI-like endpoint reads efforts."""
_LEAST_OF_PRO = 128
_MOST_OF_PRO = 32_768

_LEVELS = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}


def generation(model: str) -> tuple[int, int]:
    """Such as (2, 5); (0, 0) for models that are not numbered so."""
    name = model.rpartition("/")[2]
    found = _GENERATION.match(name)
    if found:
        return int(found[1]), int(found[2] or 0)
    return (3, 0) if _LATEST.match(name) else (0, 0)


def thinking(effort: str, model: str) -> dict[str, Any] | None:
    """The `thinkingConfig` of an effort; None for models that do not think. Raises 400 for an effort nobody knows."""
    if effort not in _LEVELS:
        known = ", ".join(_LEVELS)
        raise invalid_request(f"'reasoning_effort' must be one of {known}.", param="reasoning_effort")
    version = generation(model)
    if version < (2, 5) or _THINKS_NOT.search(model):
        return None
    told: dict[str, Any] = {"thinkingLevel": _level(effort, model)} if version >= (3, 0) else _budget(effort, model)
    if effort != "none":
        told["includeThoughts"] = True
    return told


def _level(effort: str, model: str) -> str:
    """Pro models cannot think less than a little."""
    level = _LEVELS[effort]
    return "LOW" if level == "MINIMAL" and "-pro" in model else level


def _budget(effort: str, model: str) -> dict[str, Any]:
    budget = _BUDGETS[effort]
    if "-pro" in model:
        budget = _MOST_OF_PRO if effort in ("xhigh", "max") else max(budget, _LEAST_OF_PRO)
    return {"thinkingBudget": budget}
