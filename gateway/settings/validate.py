"""A tree against a schema: every finding of pydantic's as a problem at its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.fields import Section
from gateway.settings.problems import KeyPath, Problem, dotted, nearest
from gateway.settings.shape import known_keys
from gateway.settings.source import Tree

S = TypeVar("S", bound=Section)

_Context = Mapping[str, Any]
_MESSAGES: Mapping[str, Callable[[_Context], str]] = {
    "missing": lambda _: "is required",
    "literal_error": lambda ctx: f"must be one of {str(ctx['expected']).replace(' or ', ', ')}",
    "string_type": lambda _: "must be text; put it in quotes",
    "model_type": lambda _: "must be a mapping of keys to values",
    "dict_type": lambda _: "must be a mapping of keys to values",
    "tuple_type": lambda _: "must be a list",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "less_than": lambda ctx: f"must be less than {ctx['lt']}",
    "too_short": lambda ctx: f"must have at least {ctx['min_length']} item",
    "setting": lambda ctx: str(ctx["reason"]),
}


def validate(kind: type[S], tree: Tree, problems: list[Problem]) -> S | None:
    """The tree as a section, None when something is wrong. Places with a problem already are not reported again."""
    try:
        return kind.model_validate(tree.data)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        found = error.errors(include_url=False, include_input=False)
        for details in found:
            problem = _problem(kind, tree, details)
            if problem.path not in known and not _follows(details, found):
                problems.append(problem)
        return None


def _problem(kind: type[Section], tree: Tree, details: ErrorDetails) -> Problem:
    found = details["type"]
    context = details.get("ctx", {})
    path = _written(tree, details["loc"], missing=found == "missing")
    if found == "extra_forbidden":
        suggestion = nearest(str(path[-1]), known_keys(kind, path[:-1]))
        return Problem(tree.key_place(path), dotted(path), "unknown key", suggestion)
    say = _MESSAGES.get(found)
    message = say(context) if say else details["msg"]
    place = tree.key_place(path) if found == "setting" and details["loc"][-1] == "[key]" else tree.place(path)
    return Problem(place, dotted(path), message, context.get("suggestion") or _meant(tree, path, context))


def _follows(details: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """A list that is too short only because its items were refused."""
    if details["type"] != "too_short":
        return False
    here = details["loc"]
    return any(other["loc"][: len(here)] == here for other in found if other["loc"] != here)


def _written(tree: Tree, location: KeyPath, *, missing: bool) -> KeyPath:
    """The path in the document. Validation knows steps that nobody wrote, such as the list around a single price."""
    path: KeyPath = ()
    for part in location[:-1] if missing else location:
        if (*path, part) in tree.values:
            path = (*path, part)
    return (*path, location[-1]) if missing else path


def _meant(tree: Tree, path: KeyPath, context: _Context) -> str | None:
    """The choice that a misspelt word is nearest to."""
    place = tree.place(path)
    if "expected" not in context or (place and place.private):
        return None
    value: Any = tree.data
    for part in path:
        value = value[part]
    choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
    return nearest(value, choices) if isinstance(value, str) else None
