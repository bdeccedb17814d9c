"""What the database can answer instead of a result. Messages are whole sentences, fit for a person."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DatabaseUnavailable(Exception):
    """The database did not take the work: it is locked, unreachable, full or damaged. The same may succeed later."""


class Unstorable(ValueError):
    """A value that the database will never take, however often it is offered."""


class NotFound(LookupError):
    """Nothing goes by that name."""


class Conflict(Exception):
    """The change contradicts what is already there."""


class Invalid(ValueError):
    """A value that makes no sense, such as a quota below zero."""


class MigrationRefused(Exception):
    """The schema cannot be brought to this release."""


def not_found(what: str, name: str, known: Iterable[str]) -> NotFound:
    """The error for an unknown name, with the nearest known one."""
    near = get_close_matches(name, list(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return NotFound(f"There is no {what} '{name}'.{hint}")
