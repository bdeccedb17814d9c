"""What a call used, as reported or as estimated."""

from __future__ import annotations

from typing import Literal, NamedTuple

UsageSource = Literal["upstream", "estimated"]


class Usage(NamedTuple):
    """Tokens by class. None means the upstream did not say, which is not the same as 0.

    `cached` is a part of `prompt`, `reasoning` a part of `completion`.
    """

    prompt: int
    completion: int
    cached: int | None = None
    reasoning: int | None = None
    source: UsageSource = "upstream"

    @property
    def total(self) -> int:
        return self.prompt + self.completion
