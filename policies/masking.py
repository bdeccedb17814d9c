"""Personal data and secrets are taken out of prompts before a provider sees them, and out of answers."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, internal_error
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError, TextFilter
from policies._matching import IN_A_THREAD, Found, Matcher, MatchFilter
from policies._settings import Settings
from policies._texts import rewrite

ENTITIES: Mapping[str, str] = {
    "secret": (
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[0-9A-Za-z+/=\s-]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\z)"
        r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
        r"|\bAIza[0-9A-Za-z_-]{35}"
        r"|\bgithub_pat_[0-9A-Za-z_]{22,}"
        r"|\bgh[pousr]_[0-9A-Za-z]{30,}"
        r"|\bglpat-[0-9A-Za-z_-]{20,}"
        r"|\bxox[abeoprs]-[0-9A-Za-z-]{10,}"
        r"|\b(?:sk|pk|rk|gsk|xai|hf)[-_][0-9A-Za-z_-]{16,}"
        r"|\beyJ[0-9A-Za-z_-]{8,}(?:(?:\.[0-9A-Za-z_-]{8,}){2}|(?:\.[0-9A-Za-z_-]*){0,2}\z)"
    ),
    "email": r"\b[0-9A-Za-z._%+-]{1,64}@(?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
    "iban": r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b",
    "credit_card": r"\b[0-9](?:[ -]?[0-9]){12,18}\b",
    "us_ssn": r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b",
    "phone": r"\+[0-9](?:[ ().-]{0,2}[0-9]){6,14}\b|\(?\b[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}\b",
    "ip_address": r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b",
}
"""What can be taken out, in the order that decides where two could be meant. What may be longer than a stream's reach
ends with the text too (`\\z`): so it is held back until it has ended."""

_USUAL = [name for name in ENTITIES if name != "ip_address"]
_REACH = 120
"""Characters of a stream that are held back; what may be longer is held as it comes."""


class Masking:
    """Puts a placeholder such as `[EMAIL_1]` where something personal or secret stood. In one prompt the same thing has
    the same number, so that a model can tell two persons apart; answers have no numbers."""

    name = "masking"
    on_store_error: OnStoreError = "deny"

    def __init__(self, entities: Sequence[str], prompt: bool, answer: bool) -> None:
        self._matcher = Matcher({name: ENTITIES[name] for name in ENTITIES if name in entities})
        self._prompt = prompt
        self._answer = answer

    def check(self, call: Call) -> None:
        """Refuses nothing."""

    async def inspect(self, call: Call) -> None:
        if not self._prompt:
            return
        if len(call.body.raw) > IN_A_THREAD:
            await asyncio.to_thread(self._mask, call)
        else:
            self._mask(call)

    def filters(self, call: Call) -> Callable[[], TextFilter] | None:
        if not self._answer:
            return None
        return lambda: MatchFilter(self._matcher, _unnumbered, _REACH)

    def claims(self, call: Call) -> Sequence[Claim]:
        return ()

    def denied(self, call: Call, level: Level) -> GatewayError:
        return internal_error(call.request_id)  # claims nothing, so nothing of it can be denied

    def _mask(self, call: Call) -> None:
        numbered = _Numbered()
        rewrite(call, lambda text: self._matcher.replaced(text, numbered))


class _Numbered:
    """Placeholders of one prompt."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, found: Found) -> str:
        if not _is_real(found):
            return found.text
        placeholder = self._known.get((found.name, found.text))
        if placeholder is None:
            count = self._counts[found.name] = self._counts.get(found.name, 0) + 1
            placeholder = self._known[found.name, found.text] = f"[{found.name.upper()}_{count}]"
        return placeholder


def _unnumbered(found: Found) -> str:
    return f"[{found.name.upper()}]" if _is_real(found) else found.text


def _is_real(found: Found) -> bool:
    """Whether what looks like a number with a checksum has the right one."""
    match found.name:
        case "credit_card":
            return _passes_luhn([int(c) for c in found.text if c.isdigit()])
        case "iban":
            text = found.text.replace(" ", "")
            return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
        case "ip_address":
            return _is_address(found.text)
    return True


def _passes_luhn(digits: Sequence[int]) -> bool:
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def create(settings: Mapping[str, object]) -> Masking:
    """Settings: `entities`, a list of secret, email, iban, credit_card, us_ssn, phone and ip_address (all but the
    last); `prompt` (true) and `answer` (true), where to look."""
    taken = Settings("masking", settings)
    entities = taken.texts("entities", _USUAL)
    unknown = [name for name in entities if name not in ENTITIES]
    if unknown or not entities:
        raise ValueError(f"masking.entities must be some of {', '.join(ENTITIES)}")
    made = Masking(entities, taken.switch("prompt", True), taken.switch("answer", True))
    taken.done()
    return made
