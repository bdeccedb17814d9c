"""What streams of other dialects have in common on their way to chat's chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode
from gateway.core.errors import upstream_error
from providers._errors import unreadable
from providers._writer import ChunkWriter

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.usage import Usage


class TranslatedStream(ABC):
    """A `Stream` that reads another dialect and writes chat. A dialect says how its bytes come apart (`split`) and what
    one message of it means (`read`). Its answer is over once `read` has called `end`."""

    def __init__(self, call: Call, target: Target) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.write = ChunkWriter(call, target.upstream_model)
        self.target = target
        self._out: list[bytes] = []

    @property
    def begun(self) -> bool:
        return self.write.begun

    def feed(self, chunk: bytes) -> bytes:
        if self.complete:
            return b""
        try:
            for message in self.split(chunk):
                self.read(message)
                if self.complete:
                    break
        except (ValueError, *DecodeError) as error:
            raise unreadable(self.target) from error
        return self._taken()

    def finish(self) -> bytes:
        with suppress(ValueError, *DecodeError):  # what was cut off in the middle says nothing
            for message in self.rest():
                if not self.complete:
                    self.read(message)
        if not self.complete:
            self.close()
        if not self.complete:
            raise upstream_error(f"The provider '{self.target.upstream.name}' broke off its answer.")
        return self._taken()

    def produced(self) -> int:
        return self.write.produced()

    def say(self, chunk: bytes) -> None:
        """Give the client a chunk that `write` made."""
        self._out.append(chunk)

    def end(self) -> None:
        """The answer is over: tell the usage and the end."""
        self.say(self.write.end(self.usage))
        self.complete = True

    @abstractmethod
    def split(self, chunk: bytes) -> Iterable[Any]:
        """The messages that are whole now. Raises `ValueError` or a decoding error for what cannot be one."""

    def rest(self) -> Iterable[Any]:
        """A last message that only the body's end has ended."""
        return ()

    @abstractmethod
    def read(self, message: Any) -> None:
        """Take one message in. Raises `GatewayError` where it tells of a failure."""

    def close(self) -> None:  # noqa: B027  most dialects say themselves when they end
        """The body has ended without the answer's own end: call `end` where that is how this dialect may end."""

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out


class TranslatedEvents(TranslatedStream):
    """A dialect of server-sent events with JSON in them. `read` gets pairs: the event's name and its document."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__(call, target)
        self._splitter = sse.Splitter()

    def split(self, chunk: bytes) -> Iterable[tuple[bytes, Any]]:
        return _decoded(self._splitter.feed(chunk))

    def rest(self) -> Iterable[tuple[bytes, Any]]:
        return _decoded(self._splitter.finish())


def _decoded(events: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, Any]]:
    """Documents of events; an end mark such as `[DONE]` is no document and passes as None."""
    for name, data in events:
        yield name, None if data.strip() == b"[DONE]" else decode(data)
