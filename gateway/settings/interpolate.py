"""`${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `${file:/run/secrets/x}` in text; `$${` is a literal `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

MAX_SECRET_BYTES = 65_536

_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:[-?])(.*))?", re.DOTALL)


class Unresolved(ValueError):
    """A placeholder that cannot be filled; the message says why and what to do."""


def has_placeholder(text: str) -> bool:
    """Whether there is anything to fill."""
    return "${" in text


def interpolate(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """Text with its placeholders filled. Relative secret files are looked for in `folder`. Raises `Unresolved`."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise Unresolved("'${' is not closed, or holds another placeholder; write '$${' for a literal '${'")
        if match[1].startswith("file:"):
            return _secret_file(folder / match[1].removeprefix("file:"))
        return _variable(match[1], environ)

    return _TOKEN.sub(fill, text)


def _variable(expression: str, environ: Mapping[str, str]) -> str:
    parsed = _VARIABLE.fullmatch(expression)
    if parsed is None:
        raise Unresolved("a placeholder is ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}")
    name, operator, rest = parsed.groups()
    value = environ.get(name)
    if operator is None:
        if value is None:
            raise Unresolved(f"environment variable {name} is not set; write ${{{name}:-}} where it may be absent")
        return value
    if value:
        return value
    if operator == ":-":
        return str(rest)
    raise Unresolved(f"environment variable {name} is not set: {rest or 'it is required'}")


def _secret_file(path: Path) -> str:
    """The file's text without the line end that editors leave behind."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no path"
        raise Unresolved(f"secret file {str(path)!r} cannot be read: {reason}") from error
    if len(content) > MAX_SECRET_BYTES:
        raise Unresolved(f"secret file {str(path)!r} is larger than {MAX_SECRET_BYTES} bytes")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Unresolved(f"secret file {str(path)!r} is not UTF-8 text") from None
