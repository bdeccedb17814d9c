"""Finding patterns in texts, whole or in pieces, in time linear in their length: patterns come from a configuration and
texts from anybody, so neither may choose how long a search takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import re2

IN_A_THREAD = 256 * 1024
"""A longer body is searched in a thread, so that other calls need not wait for it."""

_SPACE = r"[\s\x{A0}\x{1680}\x{2000}-\x{200D}\x{2028}\x{2029}\x{202F}\x{205F}\x{2060}\x{3000}\x{FEFF}]+"
"""What people see as a gap between two words, or do not see at all."""

_MOST_PATTERN = 20_000
_MOST_HELD = 16_384
"""Characters that a filter holds back for a match that does not end."""


class Found(NamedTuple):
    """A match: where it is, and which pattern made it."""

    start: int
    end: int
    name: str
    text: str


Replace = Callable[[Found], str]
"""What stands for a match. Its own text lets it be; `GatewayError` ends the answer."""


class Matcher:
    """Several named patterns, searched for at once. The leftmost match counts, of several there the one named first.

    Raises `ValueError` for a pattern that cannot be used, saying why.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._names = list(patterns)
        options = re2.Options()
        options.log_errors = False
        for name, pattern in patterns.items():
            self._check(name, pattern, options)
        together = "|".join(f"(?P<p{index}>{pattern})" for index, pattern in enumerate(patterns.values()))
        self._search = re2.compile(together, options)

    def find(self, text: str, start: int = 0) -> Iterator[Found]:
        """Every match from `start` on; what stands before it is seen by patterns that ask for a word's edge."""
        for match in self._search.finditer(text, start):
            if match.end() > match.start():
                index = next(i for i in range(len(self._names)) if match.group(f"p{i}") is not None)
                yield Found(match.start(), match.end(), self._names[index], match.group())

    def replaced(self, text: str, replace: Replace) -> str:
        """The text with every match replaced; the same object where there is none."""
        pieces: list[str] = []
        done = 0
        for found in self.find(text):
            pieces += (text[done : found.start], replace(found))
            done = found.end
        return "".join(pieces) + text[done:] if pieces else text

    @staticmethod
    def _check(name: str, pattern: str, options: object) -> None:
        if len(pattern) > _MOST_PATTERN:
            raise ValueError(f"'{name}' is longer than {_MOST_PATTERN} characters")
        try:
            compiled = re2.compile(pattern, options)
        except re2.error as error:
            raise ValueError(f"'{name}' is not a pattern that can be searched for in linear time: {error}") from error
        if compiled.groupindex:
            raise ValueError(f"'{name}' must not name groups")
        if compiled.search("") is not None:
            raise ValueError(f"'{name}' matches nothing at all, so it would match everywhere")


def words(listed: Iterable[str]) -> str:
    """A pattern for any of some words or phrases, whole, in any case, and with any white space between words."""
    return r"(?i:" + "|".join(_word(word) for word in listed) + ")"


def _word(word: str) -> str:
    """With edges where the word itself has letters or digits; ASCII ones, as the search knows no others."""
    before = r"\b" if word[:1].isascii() and word[:1].isalnum() else ""
    after = r"\b" if word[-1:].isascii() and word[-1:].isalnum() else ""
    return before + _SPACE.join(str(re2.escape(part)) for part in word.split()) + after


class MatchFilter:
    """A `TextFilter`: replaces matches in a text that comes in pieces.

    The last `reach` characters are held back, since a match may still begin there and end in the next piece. A match
    longer than that is found while it has begun before what was let go.
    """

    def __init__(self, matcher: Matcher, replace: Replace, reach: int) -> None:
        self._matcher = matcher
        self._replace = replace
        self._reach = reach
        self._before = ""  # the last character let go, for patterns that ask for a word's edge
        self._held = ""

    def feed(self, text: str) -> str:
        self._held += text
        return self._let_go(len(self._held) > max(_MOST_HELD, 2 * self._reach))

    def finish(self) -> str:
        return self._let_go(True)

    def _let_go(self, everything: bool) -> str:
        text, start = self._before + self._held, len(self._before)
        until = len(text) if everything else max(start, len(text) - self._reach)
        pieces: list[str] = []
        done = start
        for found in self._matcher.find(text, start):
            if found.start >= until:
                break
            if found.end == len(text) and not everything:
                until = found.start  # more of it may come
                break
            pieces += (text[done : found.start], self._replace(found))
            done = found.end
        if done < until:
            pieces.append(text[done:until])
            done = until
        if done > start:
            self._before = text[done - 1 : done]
        self._held = text[done:]
        return "".join(pieces)
