"""Reads the unstreamed answer of an upstream that speaks OpenAI's Responses API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.body import DecodeError, decode, encode, raw_members
from gateway.core.responses import error_object
from providers._errors import reported_error, unreadable
from providers._passing import is_error
from providers._usage import BYTES_PER_TOKEN, output_bytes, read_responses_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.deployment import Target
    from gateway.core.usage import Usage


class ResponsesAnswer:
    """A response, its bytes as they came."""

    __slots__ = ("_output", "body", "usage")

    content_type = b"application/json"

    def __init__(self, body: bytes, usage: Usage | None, output: bytes) -> None:
        self.body = body
        self.usage = usage
        self._output = output

    def produced(self) -> int:
        """A token per four bytes of text, rounded up."""
        try:
            return -(-output_bytes(decode(self._output)) // BYTES_PER_TOKEN)
        except DecodeError:
            return -(-len(bytes(self._output)) // BYTES_PER_TOKEN)


def read_response(body: bytes, target: Target) -> ResponsesAnswer:
    """A failed response that used nothing is an error; one that was paid for is its client's to see. Raises
    `GatewayError`."""
    try:
        members = raw_members(body)
        usage = read_responses_usage(decode(members.get("usage", b"null")))
        if is_error(members):
            if usage is None or not usage.total:
                raise reported_error(decode(body), target)
            body = _redacted(members, target)
    except DecodeError as error:
        raise unreadable(target) from error
    return ResponsesAnswer(body, usage, members.get("output", b"[]"))


def _redacted(members: Mapping[str, bytes], target: Target) -> bytes:
    """The response with an error whose words callers may see."""
    told = reported_error({"error": decode(members["error"])}, target)
    return encode({**members, "error": error_object(told)})
