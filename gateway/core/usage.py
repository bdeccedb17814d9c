"""What a call used, as reported or as estimated."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.core.money import Unit

UsageSource = Literal["upstream", "estimated"]


class Usage(NamedTuple):
    """Tokens by class. None means the upstream did not say, which is not the same as 0.

    `cached` is a part of `prompt`, `reasoning` a part of `completion`. `units` of `unit` are what calls are measured in
    that make pictures or take sound; where they are measured in nothing else, they have used 0 tokens.
    """

    prompt: int
    completion: int
    cached: int | None = None
    reasoning: int | None = None
    source: UsageSource = "upstream"
    units: int | None = None
    unit: Unit | None = None

    @property
    def total(self) -> int:
        return self.prompt + self.completion
