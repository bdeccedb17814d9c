"""YAML and JSON text as plain values that remember where each was written. The only importer of PyYAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.settings.interpolate import Unresolved, has_placeholder, interpolate
from gateway.settings.problems import ConfigError, KeyPath, Place, Problem, dotted
from gateway.settings.scalars import Expanded, resolve

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40
MAX_NODES = 100_000

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
_ALIAS_RUN = "too many values; anchors and aliases are expanded in full"


@dataclass(slots=True)
class Tree:
    """A document: `data` is mappings, lists and scalars; `values` and `keys` say where they were written."""

    data: Any = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)

    def place(self, path: KeyPath) -> Place | None:
        """Where a value stands, else where the nearest thing around it does."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path)

    def key_place(self, path: KeyPath) -> Place | None:
        return self.keys.get(path) or self.place(path)

    def graft(self, path: KeyPath, value: object, place: Place, inner: Tree | None = None) -> None:
        """Put a value over whatever is at a path. With `inner`, places below come from there."""
        target = self.data
        for depth, part in enumerate(path[:-1], start=1):
            child = target.get(str(part))
            if child is None:
                child = target[str(part)] = {}
                self.values[path[:depth]] = place
            if not isinstance(child, dict):
                return  # the file has something else there, which validation reports
            target = child
        target[str(path[-1])] = value
        for places in (self.values, self.keys):
            for old in [known for known in places if known[: len(path)] == path]:
                del places[old]
        self.values[path] = self.keys[path] = place
        if inner is not None:
            self.values.update({path + below: there for below, there in inner.values.items() if below})
            self.keys.update({path + below: there for below, there in inner.keys.items()})


def read_file(path: Path, environ: Mapping[str, str], problems: list[Problem]) -> Tree:
    """A file as a tree. What can be told apart goes to `problems`; raises `ConfigError` when nothing can be read."""
    return Reader(str(path), environ, path.parent, problems).mapping(_text(path))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise _unreadable(path, "is a directory; name the file in it") from None
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file; 'aidock init' writes one") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _unreadable(path, f"cannot be read: {reason or 'it is no path'}") from None
    if len(content) > MAX_BYTES:
        raise _unreadable(path, f"is larger than {MAX_BYTES} bytes")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _unreadable(path, "is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(str(path), before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise ConfigError([Problem(place, "", "is not UTF-8 text; save the file as UTF-8")]) from None


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem(Place(str(path)), "", why)])


class Reader:
    """Turns one text into values. Limits hold for the expanded document, so aliases cannot blow it up."""

    def __init__(self, source: str, environ: Mapping[str, str], folder: Path, problems: list[Problem]) -> None:
        self._source = source
        self._environ = environ
        self._folder = folder
        self._problems = problems
        self._tree = Tree()
        self._nodes = 0

    def mapping(self, text: str) -> Tree:
        """The text as a whole configuration; an empty one is an empty mapping."""
        tree = self.anything(text)
        if tree.data is None:
            tree.data = {}
        if not isinstance(tree.data, dict):
            raise ConfigError([Problem(tree.values[()], "", "must be a mapping of settings, such as 'server:'")])
        return tree

    def anything(self, text: str) -> Tree:
        """The text as a tree with whatever value it holds at its root."""
        node = self._compose(text)
        if node is None:
            self._tree.values[()] = Place(self._source, 1, 1)
            self._tree.data = {}
        else:
            self._tree.data = self._value(node, ())
        return self._tree

    def _compose(self, text: str) -> yaml.Node | None:
        if unprintable := _UNPRINTABLE.search(text):
            raise self._fatal_at(text, unprintable.start(), "has a character that no text file should hold")
        if text.lstrip().startswith("{"):
            text = _SURROGATE_PAIR.sub(_one_character, text)
        try:
            self._measure(text)
            loader = yaml.CSafeLoader(text)
            try:
                node: yaml.Node | None = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error) from None
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                [Problem(Place(self._source, 1, 1), "", f"is not YAML: {type(error).__name__}")]
            ) from None
        return node

    def _measure(self, text: str) -> None:
        """Refuse what would exhaust the composer, by looking at the events alone."""
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise ConfigError([Problem(self._mark(event.start_mark), "", f"nested deeper than {MAX_DEPTH} levels")])
            if count > MAX_NODES:
                raise ConfigError([Problem(self._mark(event.start_mark), "", "too many values")])

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        place = self._tree.values[path] = self._mark(node.start_mark)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise ConfigError([Problem(place, dotted(path), _ALIAS_RUN)])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        own: dict[str, Place] = {}
        for key, value in self._pairs(node, path):
            place = self._mark(key.start_mark)
            name = key.value
            if name in own:
                first = own[name]
                self._report(place, (*path, name), f"is set twice; the other place is {first}")
                continue
            own[name] = place
            self._tree.keys[(*path, name)] = place
            result[name] = self._value(value, (*path, name))
        for merged, value in self._merged(node, path):
            if merged.value not in result:
                self._tree.keys[(*path, merged.value)] = self._mark(merged.start_mark)
                result[merged.value] = self._value(value, (*path, merged.value))
        return result

    def _pairs(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(self._mark(key.start_mark), path, "a key must be text")
            elif not _is_merge(key):
                yield key, value

    def _merged(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """What `<<` brings in, one level deep, later entries giving way to earlier ones."""
        for key, value in node.value:
            if not _is_merge(key):
                continue
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(merged, yaml.MappingNode):
                    yield from self._pairs(merged, path)
                else:
                    self._report(self._mark(key.start_mark), path, "'<<' takes a mapping or a list of mappings")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            self._report(self._mark(node.start_mark), path, "tags ('!...') are not used here")
            return None
        if has_placeholder(text):
            return self._filled(text, path)
        return text if node.style else resolve(text)

    def _filled(self, text: str, path: KeyPath) -> str | None:
        place = self._tree.values[path]
        try:
            filled = interpolate(text, self._environ, self._folder)
        except Unresolved as error:
            self._report(place, path, str(error))
            return None
        self._tree.values[path] = Place(place.source, place.line, place.column, private=True)
        return Expanded(filled)

    def _report(self, place: Place, path: KeyPath, message: str) -> None:
        self._problems.append(Problem(place, dotted(path), message))

    def _mark(self, mark: Any) -> Place:
        return Place(self._source, mark.line + 1, mark.column + 1)

    def _fatal_at(self, text: str, offset: int, message: str) -> ConfigError:
        line = text.count("\n", 0, offset) + 1
        return ConfigError([Problem(Place(self._source, line, offset - text.rfind("\n", 0, offset)), "", message)])

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> ConfigError:
        mark = error.problem_mark or error.context_mark
        place = self._mark(mark) if mark is not None else Place(self._source, 1, 1)
        said = error.problem or error.context or "cannot be parsed"
        if "tab character" in said or "start any token" in said:
            said += "; indent with spaces, not tabs, and quote text that begins with a special character"
        elif "another document" in said:
            said = "holds more than one document ('---'); keep one"
        elif error.context and error.context_mark is not None:
            said += f", {error.context} that began on line {error.context_mark.line + 1}"
        return ConfigError([Problem(place, "", f"syntax: {said}")])


def _is_merge(key: yaml.Node) -> bool:
    return key.tag == "tag:yaml.org,2002:merge"


def _one_character(match: re.Match[str]) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML does not know."""
    high, low = int(match[2], 16), int(match[3], 16)
    return f"{match[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
