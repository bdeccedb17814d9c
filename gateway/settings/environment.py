"""Settings from environment variables: `AIDOCK_SECTION__KEY`, and the few names every platform uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.settings import shape
from gateway.settings.interpolate import MAX_SECRET_BYTES
from gateway.settings.problems import ConfigError, KeyPath, Place, Problem, nearest
from gateway.settings.scalars import Expanded
from gateway.settings.schema import Settings
from gateway.settings.source import Reader, Tree

PREFIX = "AIDOCK_"
SHORTHANDS: Mapping[str, KeyPath] = {
    "PORT": ("server", "port"),
    "DATABASE_URL": ("storage", "database"),
    "REDIS_URL": ("storage", "counters"),
    "AIDOCK_DATA": ("storage", "data"),
}
_NOT_SETTINGS = re.compile(r"AIDOCK_(CONFIG|DATA|(INIT_|SECRET).*)", re.DOTALL)
_SERVICE_LINK = re.compile(r".*(_SERVICE_(HOST|PORT)(_.*)?|_PORT_[0-9]+_(TCP|UDP)(_.*)?)", re.DOTALL)


def env_or_file(environ: Mapping[str, str], name: str) -> str | None:
    """A variable, or the text of the file that its `_FILE` twin names; None when neither is set.

    Raises `ConfigError` when both are set, or the file cannot be read.
    """
    value, file = environ.get(name) or None, environ.get(f"{name}_FILE") or None
    if file is None:
        return value
    place = Place(f"{name}_FILE")
    if value is not None:
        raise ConfigError([Problem(place, "", f"{name} is set too; keep one of them")])
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MAX_SECRET_BYTES).decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError):
        raise ConfigError([Problem(place, "", "the file it names cannot be read as UTF-8 text")]) from None


def apply_environment(tree: Tree, environ: Mapping[str, str], problems: list[Problem]) -> None:
    """Lay the environment's settings over a document. An `AIDOCK_` name outranks its shorthand."""
    for name, path in SHORTHANDS.items():
        if environ.get(name):
            tree.graft(path, Expanded(environ[name]), Place(name, private=True))
    for name in sorted(environ):
        if name.startswith(PREFIX) and not _foreign(name, environ[name]):
            _apply(tree, name, environ[name], environ, problems)


def _foreign(name: str, value: str) -> bool:
    """Names that share the prefix but are no settings. A Kubernetes service called aidock makes several."""
    if _NOT_SETTINGS.fullmatch(name):
        return True
    return "__" not in name and bool(_SERVICE_LINK.fullmatch(name) or value.startswith(("tcp://", "udp://")))


def _apply(tree: Tree, name: str, value: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
    place = Place(name, private=True)
    try:
        path, kind = _find(tree, name)
    except LookupError:
        meant = nearest(name.removeprefix(PREFIX), _names(), cutoff=0.6 if "__" in name else 0.8)
        # A name without a section is more likely another program's, unless it is all but one of ours.
        if "__" in name or meant:
            problems.append(Problem(place, "", "no such setting", meant and PREFIX + meant))
        return
    if not shape.is_container(kind):
        tree.graft(path, Expanded(value), place)
        return
    try:
        inner = Reader(name, environ, Path(), problems).anything(value)
    except ConfigError as error:
        problems.extend(error.problems)
    else:
        tree.graft(path, inner.data, place, inner)


def _find(tree: Tree, name: str) -> tuple[KeyPath, Any]:
    """The path a variable means and the type of what is there. Raises `LookupError`."""
    path: KeyPath = ()
    kind: Any = Settings
    present: Any = tree.data
    for word in name.removeprefix(PREFIX).split("__"):
        if not isinstance(present, dict):
            present = {}
        part = _part(kind, word, present)
        path, kind, present = (*path, part), shape.child(kind, part), present.get(part)
    return path, kind


def _part(kind: Any, word: str, present: Any) -> str:
    """The key a word of a variable's name means: any case, with `_` for what such names cannot hold."""
    options = list(shape.fields(kind)) if shape.is_section(kind) else list(present)
    spelt = {re.sub(r"\W", "_", option).casefold(): option for option in options}
    found = spelt.get(word.casefold())
    if found is not None:
        return found
    if word and shape.is_mapping(kind):
        return word.lower()
    raise LookupError(word)


def _names() -> Iterator[str]:
    """Every name of two words at most, for suggestions."""
    for section, kind in shape.fields(Settings).items():
        yield section.upper()
        yield from (f"{section}__{key}".upper() for key in shape.fields(kind))
