"""Words and patterns that prompts and answers may not hold: such a call is refused, or they are blotted out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.core.call import Call
from gateway.core.errors import GatewayError, internal_error, invalid_request
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError, TextFilter
from policies._matching import IN_A_THREAD, Found, Matcher, MatchFilter, words
from policies._settings import Settings
from policies._texts import rewrite


class Rule(NamedTuple):
    """What is done about a match of one pattern, in prompts, answers or both."""

    name: str
    pattern: str
    prompt: bool
    answer: bool
    blocks: bool
    replacement: str


class ContentRules:
    """Applies rules to prompts before anything is reserved, and to answers, streamed or not, on their way."""

    name = "content_rules"
    on_store_error: OnStoreError = "deny"

    def __init__(self, rules: Sequence[Rule], reach: int) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._in_prompts = _matcher(rule for rule in rules if rule.prompt)
        self._in_answers = _matcher(rule for rule in rules if rule.answer)
        self._reach = reach

    def check(self, call: Call) -> None:
        """Looks at nothing: prompts are looked at by `inspect`, which may take its time."""

    async def inspect(self, call: Call) -> None:
        if self._in_prompts is None:
            return
        if len(call.body.raw) > IN_A_THREAD:
            await asyncio.to_thread(self._apply, call, self._in_prompts)
        else:
            self._apply(call, self._in_prompts)

    def filters(self, call: Call) -> Callable[[], TextFilter] | None:
        matcher = self._in_answers
        if matcher is None:
            return None
        return lambda: MatchFilter(matcher, self._in_answer, self._reach)

    def claims(self, call: Call) -> Sequence[Claim]:
        return ()

    def denied(self, call: Call, level: Level) -> GatewayError:
        return internal_error(call.request_id)  # claims nothing, so nothing of it can be denied

    def _apply(self, call: Call, matcher: Matcher) -> None:
        rewrite(call, lambda text: matcher.replaced(text, self._in_prompt))

    def _in_prompt(self, found: Found) -> str:
        rule = self._rules[found.name]
        if rule.blocks:
            said = f"The prompt holds what the rule '{rule.name}' of this gateway does not let pass. Leave it out."
            raise invalid_request(said, code="content_filter")
        return rule.replacement

    def _in_answer(self, found: Found) -> str:
        rule = self._rules[found.name]
        if rule.blocks:
            said = f"The answer held something that the rule '{rule.name}' of this gateway does not let pass."
            raise invalid_request(said, code="content_filter")
        return rule.replacement


def _matcher(rules: Iterable[Rule]) -> Matcher | None:
    patterns = {rule.name: rule.pattern for rule in rules}
    return Matcher(patterns) if patterns else None


def create(settings: Mapping[str, object]) -> ContentRules:
    """Settings: `rules`, a list; `reach` (200), how many characters of a stream are held back for a match that is not
    whole yet. A rule has a `name`; `words` or a `regex`; `where` (both), prompt or answer; `action` (block) or mask;
    and a `replacement` ([removed])."""
    taken = Settings("content_rules", settings)
    rules = [_rule(entry) for entry in taken.sections("rules")]
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError("content_rules.rules has two rules of one name")
    reach = taken.count("reach", 200)
    taken.done()
    try:
        return ContentRules(rules, reach)
    except ValueError as error:
        raise ValueError(f"content_rules: the rule {error}") from error


def _rule(taken: Settings) -> Rule:
    name = taken.text("name")
    listed, regex = taken.texts("words"), taken.text("regex", "")
    where = taken.choice("where", "both", "prompt", "answer")
    action = taken.choice("action", "block", "mask")
    replacement = taken.text("replacement", "[removed]")
    taken.done()
    if bool(listed) == bool(regex):
        raise ValueError(f"content_rules: the rule '{name}' needs words or a regex, one of them")
    pattern = words(listed) if listed else regex
    return Rule(name, pattern, where != "answer", where != "prompt", action == "block", replacement)
