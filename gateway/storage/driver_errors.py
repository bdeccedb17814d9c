"""What the two drivers raise, as what this package raises."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.storage.errors import Conflict, DatabaseUnavailable, Unstorable

_UNIQUE_OR_REFERENCE = ("23503", "23505", "23P01")
_OTHER_SCHEMA = ("42P01", "42703", "42704", "3F000")
"""SQLSTATE of a table, column or type that is not there."""

_NO_PRIVILEGE = "42501"


@contextmanager
def mapped_errors(failure: type[Exception] = OSError) -> Iterator[None]:
    """Raise `DatabaseUnavailable`, `Unstorable` and `Conflict` in place of drivers' errors. What shows a defect of
    ours, such as a statement that cannot be parsed, comes through. `failure` is one more class that means that the
    database is away."""
    try:
        yield
    except DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error
    except (OverflowError, UnicodeEncodeError) as error:  # SQLite's driver has no errors of its own for these
        raise Unstorable(f"The database cannot hold a value: {error}.") from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailable("All of this process's connections to the database are in use.") from error
    except TimeoutError as error:
        raise DatabaseUnavailable("The database does not answer.") from error
    except (OSError, failure) as error:
        raise DatabaseUnavailable(f"The database did not take the work: {error}.") from error


def is_about_a_value(error: DBAPIError) -> bool:
    """Whether the database refuses a row, however often it is offered, while it would take others."""
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(("22", "23"))
    if isinstance(error, ProgrammingError):
        return "binding" in str(error.orig)  # SQLite: a type it does not know
    if isinstance(error, InterfaceError):
        return isinstance(error.orig, sqlite3.InterfaceError) or _is_refused_argument(error.orig)
    return isinstance(error, DataError | IntegrityError)


def cause_of(error: DBAPIError) -> str:
    """What the database said, without the statement or its values."""
    return str(getattr(error.orig, "__cause__", None) or error.orig).rstrip(".")


def _translated(error: DBAPIError) -> Exception | None:
    """None for a defect of ours."""
    cause = cause_of(error)
    state = _sqlstate(error)
    if state in _UNIQUE_OR_REFERENCE or (isinstance(error, IntegrityError) and cause.startswith(("UNIQUE", "FOREIGN"))):
        return Conflict(f"Someone else has just changed the same things: {cause}. Look again, and try again.")
    if is_about_a_value(error):
        return None if isinstance(error, IntegrityError) else Unstorable(f"The database cannot hold a value: {cause}.")
    if state in _OTHER_SCHEMA or (state is None and cause.startswith("no such ")):
        return DatabaseUnavailable(f"The database has another schema than this release: {cause}. Run aidock migrate.")
    if state is not None and state.startswith("42") and state != _NO_PRIVILEGE:
        return None
    if state is None and (isinstance(error, ProgrammingError) or cause.endswith("syntax error")):
        return None
    return DatabaseUnavailable(f"The database did not take the work: {cause}.")


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _is_refused_argument(error: BaseException | None) -> bool:
    """Whether asyncpg refused a value before the server saw it. It has one class for that and, under the same name,
    another for what the server says, which has a SQLSTATE."""
    cause = getattr(error, "__cause__", None)
    return isinstance(cause, ValueError) and type(cause).__name__ == "DataError"
