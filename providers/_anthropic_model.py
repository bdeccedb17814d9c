"""What each generation of Claude takes, told from a model's name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gateway.core.errors import invalid_request

if TYPE_CHECKING:
    from gateway.core.deployment import Target

FIRST_VERSION = "2023-06-01"
"""Of the API: the one that everything understands which speaks this dialect."""

SECOND_VERSION = "2026-10-21"
"""It refuses temperature, top_p and top_k, whatever the model."""

LEAST_BUDGET = 1024

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens to think with, for models that are told so rather than how hard to try."""

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}

_EARLY = re.compile(r"claude-(?P<major>\d)(?:[-.](?P<minor>\d))?-(?P<family>[a-z]+)")
_LATE = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?(?!\d)")

_ALWAYS_THINK = frozenset({"fable", "mythos"})


class Abilities(NamedTuple):
    """`version` is the API's that its requests are written for. `samples`: it takes temperature, top_p and top_k.
    `thinks`: not at all, with a `budget` of tokens, or as it sees fit, by its effort (`adaptive`). `off` is the type of
    thinking that means none: "" where leaving it out does, None where it cannot be turned off. `shows`: it shows its
    thoughts unasked. `xhigh` is among its efforts. `schemas`: it keeps to a JSON Schema by itself. `output` is the cap
    where nobody sets one, which every request must have."""

    version: str = FIRST_VERSION
    samples: bool = True
    thinks: Literal["no", "budget", "adaptive"] = "budget"
    off: str | None = ""
    shows: bool = True
    xhigh: bool = False
    schemas: bool = False
    output: int = 8192

    @property
    def forces(self) -> bool:
        """Whether it can be made to call a tool: that and thinking exclude each other."""
        return self.off in ("", "disabled")


UNKNOWN = Abilities()
"""Of models that only speak as Claude does: what they are likeliest to have in common."""


def abilities(target: Target) -> Abilities:
    """Told once for every target."""
    known: Abilities | None = target.memo.get("claude")
    if known is None:
        known = target.memo["claude"] = _told(target.upstream_model.lower())
    return known


def _told(name: str) -> Abilities:
    found = _EARLY.search(name) or _LATE.search(name)
    if found is None:
        return UNKNOWN
    family, generation = found["family"], (int(found["major"]), int(found["minor"] or 0))
    if generation < (3, 7):
        return Abilities(thinks="no", output=8192 if generation >= (3, 5) else 4096)
    if generation < (4, 6):
        return Abilities(schemas=generation >= (4, 5), output=32_000)
    if generation < (4, 7):
        return Abilities(thinks="adaptive", schemas=True, output=32_000)
    return Abilities(
        version=SECOND_VERSION,
        samples=False,
        thinks="adaptive",
        off=_off(family, generation),
        shows=False,
        xhigh=True,
        schemas=True,
        output=32_000,
    )


def _off(family: str, generation: tuple[int, int]) -> str | None:
    """How a model from 4.7 on is kept from thinking. It thinks unasked from 5 on."""
    if family in _ALWAYS_THINK or (family == "opus" and generation >= (5, 5)):
        return None
    if family == "sonnet" and generation >= (5, 5):
        return "between_tools"
    return "disabled" if generation >= (5, 0) else ""


def thinking(effort: str | None, able: Abilities, most: int, *, allowed: bool) -> dict[str, Any]:
    """The request's `thinking` and `output_config` for an effort, None where the client leaves it to the model. `most`
    is the cap on its output, `allowed` whether it may think at all: where a tool must be called it may not."""
    if effort is not None and effort != "none" and effort not in _EFFORTS:
        raise invalid_request(
            f"'reasoning_effort' must be one of none, {', '.join(_EFFORTS)}.", param="reasoning_effort"
        )
    if effort is None:
        return {} if allowed else _without(able)
    if effort == "none":
        return _without(able)
    if able.thinks == "adaptive":
        return _adaptive(effort, able, allowed=allowed)
    budget = min(_BUDGETS[effort], most // 2)  # what is thought counts as output, and an answer should follow
    if able.thinks == "no" or not allowed or budget < LEAST_BUDGET:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _adaptive(effort: str, able: Abilities, *, allowed: bool) -> dict[str, Any]:
    level = _EFFORTS[effort]
    if level == "xhigh" and not able.xhigh:
        level = "high"
    if not allowed:
        # Where thinking must be turned off, it can be only up to a high effort.
        return {**_without(able), "output_config": {"effort": "high" if level in ("xhigh", "max") else level}}
    shown = {} if able.shows else {"display": "summarized"}
    return {"thinking": {"type": "adaptive", **shown}, "output_config": {"effort": level}}


def _without(able: Abilities) -> dict[str, Any]:
    if able.off is None:
        return {"output_config": {"effort": "low"}}
    return {"thinking": {"type": able.off}} if able.off else {}


def within(cap: int, thinking: object) -> dict[str, Any]:
    """What becomes of a client's own `thinking`: its budget must be below the cap; where the least is not, there is no
    room to think, and the member is None. Nothing where it can stay."""
    match thinking:
        case {"budget_tokens": int(budget)} if budget >= cap and isinstance(thinking, dict):
            return {"thinking": {**thinking, "budget_tokens": cap - 1} if cap > LEAST_BUDGET else None}
    return {}
