"""Reads multipart/form-data as it arrives. A file beyond a small size goes to a temporary file; everything else that a
client can make us hold has a bound, and what can be read in two ways is refused."""

from __future__ import annotations

import hashlib
import re
import tempfile
from itertools import chain
from typing import BinaryIO, Final, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway import sound
from gateway.client import Client
from gateway.core.errors import GatewayError, invalid_request
from gateway.core.form import Field, File, Form
from gateway.core.headers import Headers

IN_MEMORY: Final = 256 * 2**10
"""A file up to this size is not written to disk."""

_MOST_PARTS: Final = 64
_MOST_HEADERS: Final = 8
_MOST_HEADER_BYTES: Final = 4096
_MOST_TEXT_BYTES: Final = 2**20
"""All text fields together."""

_ONCE: Final = frozenset({"model", "stream", "response_format"})
"""Fields that decide what a call is and costs: of two, upstreams take either."""

_FILE: Final = "file"
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]").fullmatch
_NAME = re.compile(rb"(?<![\w*])name\s*\*?\s*=", re.IGNORECASE).findall
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"').sub
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_WRITABLE = re.compile(r"[^\x00-\x1f\x7f\"\\]{1,128}").fullmatch


async def receive(client: Client, most: int) -> Form:
    """The client's body, of at most `most` bytes, to be closed in the end. Raises 400 for what is no such form, 413 for
    one that is too large, `ClientGone` when the client leaves meanwhile."""
    reading = _Reading(_boundary(client.scope["headers"]))
    try:
        async for piece in client.pieces(most):
            reading.feed(piece)
        return reading.form()
    except BaseException:
        reading.close()
        raise


def _boundary(headers: Headers) -> bytes:
    said = [value for name, value in headers if name == b"content-type"]
    kind, options = parse_options_header(said[0]) if len(said) == 1 else (b"", {})
    if kind != b"multipart/form-data":
        raise invalid_request("The request body must be multipart/form-data, with the sound in a part named 'file'.")
    boundary = options.get(b"boundary", b"")
    if not _BOUNDARY(boundary):
        raise invalid_request("The content-type says multipart/form-data without a usable boundary.")
    return boundary


class _Reading:
    """A form under way."""

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._parts: list[Field | File] = []
        self._part: _Part | None = None
        self._header = b""
        self._text_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_begin": self._begin_header,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_head,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_MOST_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        except OSError as error:
            raise GatewayError(
                503,
                "overloaded",
                "The gateway has no room for this upload now. Try again shortly.",
                type="server_error",
                headers={"retry-after": "5"},
            ) from error

    def form(self) -> Form:
        """All of it. Raises 400 where it is incomplete or says things twice."""
        if not self._ended:
            raise _malformed("it ends before its last boundary")
        names = [part.name for part in self._parts]
        for part in self._parts:
            if names.count(part.name) > 1 and (part.name in _ONCE or isinstance(part, File)):
                raise invalid_request(f"The form has the field '{part.name}' more than once.", param=part.name)
        return Form(self._parts, self._boundary)

    def close(self) -> None:
        """Let go of what was read."""
        if self._part is not None and self._part.spool is not None:
            self._part.spool.close()
        for part in self._parts:
            if isinstance(part, File):
                part.spool.close()

    # What the parser tells

    def _begin_part(self) -> None:
        if len(self._parts) == _MOST_PARTS:
            raise _malformed(f"it has more than {_MOST_PARTS} parts")
        self._part = _Part()

    def _begin_header(self) -> None:
        self._header = b""
        self._current.header_name = b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._current.header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _end_header(self) -> None:
        self._current.headers.append((self._current.header_name, self._header))

    def _end_head(self) -> None:
        self._current.identify()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current
        if part.spool is None:
            self._text_bytes += end - start
            if self._text_bytes > _MOST_TEXT_BYTES:
                raise _malformed(f"its text fields have more than {_MOST_TEXT_BYTES} bytes")
        part.add(data[start:end])

    def _end_part(self) -> None:
        self._parts.append(self._current.made())
        self._part = None

    def _end(self) -> None:
        self._ended = True

    @property
    def _current(self) -> _Part:
        if self._part is None:
            raise _malformed("it has data outside its parts")
        return self._part


class _Part:
    """A part under way. One with a file name is the file."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.header_name = b""
        self.spool: BinaryIO | None = None
        self._name = ""
        self._filename = ""
        self._value = bytearray()
        self._digest = hashlib.sha256()
        self._beginning = b""
        self._size = 0

    def identify(self) -> None:
        """Its head is complete: what it is. Raises 400."""
        if any(map(_CONTROL, chain.from_iterable(self.headers))):
            raise _malformed("the head of a part holds control characters")
        said = [value for name, value in self.headers if name.lower() == b"content-disposition"]
        kind, options = parse_options_header(said[0]) if len(said) == 1 else (b"", {})
        if kind != b"form-data" or len(_NAME(_QUOTED(b"", said[0]))) != 1:
            raise _malformed("a part does not say in one way which field it is")
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not _WRITABLE(self._name):
            raise _malformed("a field has a name that cannot be passed on")
        if b"filename" in options:
            if self._name != _FILE:
                raise invalid_request(f"The form has a file named '{self._name}'; only 'file' may be one.")
            self._filename = options[b"filename"].decode("utf-8", "replace")
            spool = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  the form closes it
            self.spool = cast("BinaryIO", spool)

    def add(self, data: bytes) -> None:
        if self.spool is None:
            self._value += data
            return
        self._digest.update(data)
        self._size += len(data)
        if len(self._beginning) < sound.HEAD_BYTES:
            self._beginning += data[: sound.HEAD_BYTES - len(self._beginning)]
        self.spool.write(data)

    def made(self) -> Field | File:
        if self.spool is None:
            if self._name == _FILE:
                raise invalid_request("The part 'file' has no file name, so it is no file.", param=_FILE)
            return Field(self._name, self._field_head(), bytes(self._value))
        head = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        content_type = next((value for name, value in self.headers if name.lower() == b"content-type"), b"")
        return File(
            self._name,
            head,
            self.spool,
            self._size,
            self._digest.hexdigest(),
            self._filename,
            content_type.decode("latin-1"),
            sound.wav_seconds(self._beginning, self._size),
        )

    def _field_head(self) -> bytes:
        """Written anew, so that an upstream cannot read another name out of it than we did."""
        return f'Content-Disposition: form-data; name="{self._name}"\r\n'.encode()


def _malformed(why: str) -> GatewayError:
    return invalid_request(f"The request body is not a readable form: {why.removesuffix('.')}.")
