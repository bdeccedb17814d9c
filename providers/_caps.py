"""The output cap in words that an upstream keeps to.

Servers that speak OpenAI know it by different names: most by `max_tokens` only; those of the newer API by
`max_completion_tokens`, with `max_tokens` as its older name; and some by names of their own beside these, which may
outrank them. An upstream ignores what it does not know, so a cap has to stand under the name that it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gateway.core.body import Body

_NAMES = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "max_length",
    "n_predict",
    "num_predict",
)
"""Every name for it that is known of any server."""


class CapNames(NamedTuple):
    """What one upstream calls the cap of one endpoint: `own` is its name there, `older` what it takes as well. By
    `others` it may be meant too, or it ignores them."""

    own: str
    older: tuple[str, ...]
    others: tuple[str, ...]


def cap_names(caps: tuple[str, ...], quirks: Mapping[str, Any]) -> CapNames | None:
    """`caps` are the names in the endpoint's own dialect; None where it has none."""
    if not caps:
        return None
    field = quirks.get("max_tokens_field") or "max_tokens"
    renamed = quirks.get("rename") or {}
    own = field if field in caps else caps[0]
    strange = {*renamed, *(quirks.get("drop") or ())}
    older = tuple(name for name in caps if own == "max_completion_tokens" != name and name not in strange)
    theirs = tuple(new for old, new in renamed.items() if old in caps)
    others = tuple(name for name in dict.fromkeys((*caps, *_NAMES, *theirs)) if name not in (own, *older))
    return CapNames(own, older, others)


def write_cap(cap: int, names: CapNames, caps: tuple[str, ...], body: Body, changes: dict[str, Any]) -> None:
    """Have the upstream told of a cap of at most `cap`, less where the client wants less.

    It is said in the client's words where the upstream is known to take them, for some models take only one of the
    two. The client's other words for it go, as do names that the endpoint does not have but a server may, where they
    say more than the cap or no number.
    """
    said = {name: count for name in caps if (count := body.count(name)) is not None}
    least = min(cap, *said.values()) if said else cap
    for name in [name for name in (names.own, *names.older) if name in said] or [names.own]:
        if said.get(name) != least:
            changes[name] = least
    for name in names.others:
        if name in said or (name in body and not _is_within(body.members[name], cap)):
            changes[name] = None


def _is_within(value: bytes, cap: int) -> bool:
    digits = bytes(value)
    return len(digits) < 20 and digits.isdigit() and 0 < int(digits) <= cap
