"""A request's head: parsed by llhttp, then held to what a gateway can stand for.

llhttp refuses malformed lines, control characters, bare LF, folded headers and ambiguous framing. It takes a missing or
double Host, other protocols' versions and any number of headers; those are refused here.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import httptools

from gateway.core.errors import DO_NOT_RETRY, GatewayError, invalid_request, request_too_large
from gateway.core.headers import Headers
from gateway.guard.limits import GuardLimits

HEAD_END = b"\r\n\r\n"

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SINGLE = frozenset({b"host", b"content-length", b"content-encoding", b"transfer-encoding", b"expect"})
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_LONGEST_METHOD = 32
_WORTH_KNOWING = 2 * 2**10


class Head:
    """What `HttpRequestParser` calls back, and what the head says once `examine` has passed it.

    `content_length` is 0 where there is no body; it means nothing when `chunked`.
    """

    # llhttp's other callbacks. Stated as absent, so that the parser need not search for them on every request.
    on_message_begin = on_url = on_body = on_message_complete = on_chunk_header = on_chunk_complete = None

    __slots__ = (
        "chunked",
        "complete",
        "content_length",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "version",
    )

    def __init__(self) -> None:
        self.headers: Headers = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True

    def examine(self, raw: bytes, limits: GuardLimits) -> None:
        """Read the head whose bytes are `raw`. Raises `GatewayError`."""
        if not self.complete:
            raise invalid_request("The request head is not valid HTTP/1.1.")
        self._read_request_line(raw, limits)
        headers = self.headers
        if len(headers) > limits.max_headers:
            raise _too_many_headers(limits)
        fields = dict(headers)
        if len(fields) != len(headers):
            _refuse_repeats(headers)
            fields[b"connection"] = b",".join([value for name, value in headers if name == b"connection"])
        self._read_fields(fields)
        if self.content_length > limits.max_body_bytes:
            raise body_too_large(limits)

    def _read_request_line(self, raw: bytes, limits: GuardLimits) -> None:
        parts = raw[: raw.index(b"\r\n")].split(b" ")
        version = _VERSIONS.get(parts[-1])
        if len(parts) != 3 or version is None:
            raise invalid_request("The request line must be a method, a path and HTTP/1.1 or HTTP/1.0.")
        method, target, _ = parts
        if len(target) > limits.max_target_bytes:
            raise _target_too_long(limits)
        if target[:1] != b"/" or b"#" in target or method == b"CONNECT":
            raise invalid_request("The request target must be a path on this server, such as /v1/models.")
        self.version = version
        self.method = method.decode("ascii")
        self.raw_path, _, self.query = target.partition(b"?")
        self.path = path = self.raw_path.decode("ascii")
        if "%" in path:
            self.path = unquote(path)
            if "\0" in self.path:
                raise invalid_request("The request path holds a NUL.")

    def _read_fields(self, fields: dict[bytes, bytes]) -> None:
        http11 = self.version == "1.1"
        host = fields.get(b"host")
        if host is None:
            if http11:
                raise invalid_request("The request has no Host header.")
        elif not _HOST.fullmatch(host):
            raise invalid_request("The Host header must be one host name or address, with or without a port.")
        length = fields.get(b"content-length")
        self.content_length = 0 if length is None else _content_length(length)
        coding = fields.get(b"transfer-encoding")
        self.chunked = coding is not None
        if coding is not None and (coding.lower() != b"chunked" or length is not None or not http11):
            raise invalid_request("Transfer-Encoding must be chunked alone, without Content-Length.")
        if b"content-encoding" in fields and fields[b"content-encoding"].lower() != b"identity":
            raise _unsupported_encoding()
        self.expects_continue = http11 and b"expect" in fields and fields[b"expect"].lower() == b"100-continue"
        connection = fields.get(b"connection")
        if connection is None:
            self.keep_alive = http11
        else:
            tokens = [token.strip() for token in connection.lower().split(b",")]
            self.keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)


class HeadReader:
    """Finds the heads in what a connection receives. A head in pieces is refused as soon as it cannot become good."""

    __slots__ = ("_known", "_known_raw", "_limits", "_partial")

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._partial: tuple[bytearray, httptools.HttpRequestParser] | None = None
        # A kept-alive client often repeats its last head to the byte, and equal bytes mean the same.
        self._known_raw = b""
        self._known: Head | None = None

    @property
    def begun(self) -> bool:
        """Whether the beginning of a head has arrived, but not its end."""
        return self._partial is not None

    def take(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and what came behind it, None while its end is missing. Raises `GatewayError`."""
        if self._partial is not None:
            return self._continue(*self._partial, data)
        if data[0] in b"\r\n":
            data = data.lstrip(b"\r\n")  # empty lines before a request are legal
            if not data:
                return None
        end = data.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            self._partial = bytearray(), httptools.HttpRequestParser(Head())
            return self._continue(*self._partial, data)
        return self._read(data[:end]), data[end:]

    def _continue(self, raw: bytearray, parser: httptools.HttpRequestParser, data: bytes) -> tuple[Head, bytes] | None:
        searched = max(0, len(raw) - len(HEAD_END) + 1)
        raw += data
        end = raw.find(HEAD_END, searched) + len(HEAD_END)
        if end >= len(HEAD_END):
            self._partial = None
            return self._read(bytes(raw[:end])), bytes(raw[end:])
        _feed(parser, data)
        if len(raw) > self._limits.max_target_bytes + _LONGEST_METHOD and raw.find(b"\r\n") < 0:
            raise _target_too_long(self._limits)
        if len(raw) > self._limits.max_header_bytes:
            raise _header_too_large(self._limits)
        return None

    def _read(self, raw: bytes) -> Head:
        if raw == self._known_raw and self._known is not None:
            return self._known
        if len(raw) > self._limits.max_header_bytes:
            raise _header_too_large(self._limits)
        head = Head()
        _feed(httptools.HttpRequestParser(head), raw)
        head.examine(raw, self._limits)
        if len(raw) <= _WORTH_KNOWING:
            self._known_raw, self._known = raw, head
        return head


def _feed(parser: httptools.HttpRequestParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer to change protocols, which a server may leave unanswered
    except httptools.HttpParserError as error:
        raise invalid_request(f"The request is not valid HTTP/1.1: {error}.") from error


def body_too_large(limits: GuardLimits) -> GatewayError:
    """413: the declared length, or what has arrived, is over the cap."""
    return request_too_large(
        f"The request body is larger than the {limits.max_body_bytes} bytes this gateway takes. "
        "Send less, or ask its administrator to raise server.max_body_bytes."
    )


def request_timeout(part: str, seconds: float) -> GatewayError:
    """408: the head or the body did not arrive in time."""
    return GatewayError(408, "invalid_request", f"The request's {part} did not arrive within {seconds:g} seconds.")


def _header_too_large(limits: GuardLimits) -> GatewayError:
    return request_too_large(f"The request's headers take more than {limits.max_header_bytes} bytes.", status=431)


def _too_many_headers(limits: GuardLimits) -> GatewayError:
    return request_too_large(f"The request has more than {limits.max_headers} headers.", status=431)


def _target_too_long(limits: GuardLimits) -> GatewayError:
    message = f"The request's URL is longer than {limits.max_target_bytes} bytes."
    return GatewayError(414, "invalid_request", message, headers=DO_NOT_RETRY)


def _unsupported_encoding() -> GatewayError:
    message = "The gateway takes request bodies as they are: send no Content-Encoding."
    return GatewayError(415, "invalid_request", message, headers=DO_NOT_RETRY)


def _content_length(value: bytes) -> int:
    if not value.isdigit():
        raise invalid_request("Content-Length must be a number.")
    return int(value)


def _refuse_repeats(headers: Headers) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in _SINGLE and name in seen:
            raise invalid_request(f"The request has more than one {name.decode('ascii')} header.")
        seen.add(name)
