"""A multipart/form-data request body: text fields, and one file that is not held in memory.

To whatever reads bodies it is one more JSON object: its fields are members, and the file is a member that describes it.
On the way to an upstream the parts are written again as they came, but for the model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from gateway.core.body import Body, encode


class Field(NamedTuple):
    """A part with a text. `head` are its header lines, each with its end."""

    name: str
    head: bytes
    value: bytes


class File(NamedTuple):
    """The part with the file: its content is in `spool`, from its start on. `seconds` is how long it sounds, where that
    can be told for certain; `digest` identifies the content."""

    name: str
    head: bytes
    spool: BinaryIO
    size: int
    digest: str
    filename: str
    content_type: str
    seconds: int | None = None

    def described(self) -> dict[str, Any]:
        """What can be said of the file without reading it."""
        about = {"filename": self.filename, "content_type": self.content_type, "bytes": self.size}
        return {**about, "sha256": self.digest, "seconds": self.seconds}


class Form(Body):
    """The fields as JSON: texts, lists of texts where a name is repeated, and `stream` as the flag that it is."""

    __slots__ = ("_boundary", "_parts")

    def __init__(self, parts: Sequence[Field | File], boundary: bytes) -> None:
        super().__init__(encode(dict(_members(parts))))
        self._parts = parts
        self._boundary = boundary

    @property
    def content_type(self) -> bytes:
        return b"multipart/form-data; boundary=" + self._boundary

    def changed(self, changes: Mapping[str, Any]) -> Form:
        """The form with other texts in some of its fields. The file is this form's, and so is its closing."""
        parts: list[Field | File] = []
        for part in self._parts:
            told = changes.get(part.name)
            if isinstance(part, Field) and isinstance(told, str):
                parts.append(part._replace(value=told.encode("utf-8", "replace")))
            else:
                parts.append(part)
        return Form(parts, self._boundary)

    def written(self, model: str) -> WrittenForm:
        """The body for an upstream that knows the model by another name. To be used until the form is closed."""
        return WrittenForm(self._pieces(model.encode()))

    def close(self) -> None:
        """Let the file go."""
        for part in self._parts:
            if isinstance(part, File):
                part.spool.close()

    def _pieces(self, model: bytes) -> Iterator[bytes | File]:
        if "model" not in self.members:
            head = b'content-disposition: form-data; name="model"\r\n'
            yield b"--%b\r\n%b\r\n%b\r\n" % (self._boundary, head, model)
        for part in self._parts:
            yield b"--%b\r\n%b\r\n" % (self._boundary, part.head)
            if isinstance(part, File):
                yield part
            else:
                yield model if part.name == "model" else part.value
            yield b"\r\n"
        yield b"--%b--\r\n" % self._boundary


class WrittenForm:
    """`gateway.core.upstream.BodySource` over a form's parts."""

    __slots__ = ("_size", "_stretches")

    def __init__(self, pieces: Iterable[bytes | File]) -> None:
        self._stretches: list[tuple[int, bytes | File]] = []
        self._size = 0
        for piece in _joined(pieces):
            self._stretches.append((self._size, piece))
            self._size += piece.size if isinstance(piece, File) else len(piece)

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on; fewer only at the end."""
        found: list[bytes] = []
        for at, piece in self._stretches:
            offset = max(0, start - at)
            wanted = size - max(0, at - start)
            if wanted <= 0:
                break
            if isinstance(piece, File):
                if offset < piece.size:
                    piece.spool.seek(offset)
                    found.append(piece.spool.read(min(wanted, piece.size - offset)))
            elif offset < len(piece):
                found.append(piece[offset : offset + wanted])
        return b"".join(found)


def _joined(pieces: Iterable[bytes | File]) -> Iterator[bytes | File]:
    """Neighbouring bytes in one piece."""
    held: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, File):
            yield b"".join(held)
            yield piece
            held = []
        else:
            held.append(piece)
    yield b"".join(held)


def _members(parts: Iterable[Field | File]) -> Iterator[tuple[str, Any]]:
    texts: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part, File):
            yield part.name, part.described()
        else:
            texts.setdefault(part.name, []).append(part.value.decode("utf-8", "replace"))
    for name, values in texts.items():
        if name == "stream" and values[0].lower() in ("true", "false"):
            yield name, values[0].lower() == "true"
        else:
            yield name, values[0] if len(values) == 1 else values
