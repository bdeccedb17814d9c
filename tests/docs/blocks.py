"""The fenced blocks of a Markdown document, and the commands inside them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_LINE = re.compile(r"# (?P<path>[\w./-]+\.(?:py|yaml))\n")
_BETWEEN = frozenset({"|", "||", "&&", ";", "&"})


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `marks` are the words behind its language; `file` is the path that its first line names."""

    document: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file(self) -> str | None:
        named = _FILE_LINE.match(self.text)
        return named["path"] if named else None


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what it is shown to print; None where nothing is shown."""

    command: str
    output: str | None

    @property
    def programs(self) -> list[str]:
        """The first word of each command of the line, variables set in front of it left out."""
        lexer = shlex.shlex(self.command.replace("\\\n", " "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[str] = []
        first = True
        for word in lexer:
            if word in _BETWEEN:
                first = True
            elif first and not re.fullmatch(r"[A-Za-z_]\w*=.*", word):
                found.append(word)
                first = False
        return found


def blocks_of(path: Path, name: str) -> list[Block]:
    """Every fenced block, in order."""
    text = path.read_text()
    return [_block(name, text, match) for match in _FENCE.finditer(text)]


def steps_of(block: Block) -> Iterator[Step]:
    """A shell block has a command on every line, a console block behind every `$ `; a `\\` continues a line."""
    lines = iter(block.text.splitlines())
    console = block.language == "console"
    command: list[str] = []
    output: list[str] = []
    for line in lines:
        begins = line.startswith("$ ") if console else bool(line.strip()) and not line.startswith("#")
        if not begins:
            output.append(line)
            continue
        if command:
            yield _step(command, output, console)
        command, output = [line.removeprefix("$ ") if console else line], []
        while command[-1].endswith("\\"):
            command.append(next(lines))
    if command:
        yield _step(command, output, console)


def pattern(shown: str) -> re.Pattern[str]:
    """What is shown as a pattern: `…` stands for anything within a line, alone on a line for any lines."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"[ ]*\n"
        for line in shown.rstrip().splitlines()
    ]
    return re.compile("".join(lines))


def _block(name: str, text: str, match: re.Match[str]) -> Block:
    language, *marks = match["info"].split() or [""]
    return Block(name, text.count("\n", 0, match.start()) + 1, language, tuple(marks), match["text"])


def _step(command: list[str], output: list[str], console: bool) -> Step:
    shown = "\n".join(output).strip("\n")
    return Step("\n".join(command), shown if console and shown else None)
