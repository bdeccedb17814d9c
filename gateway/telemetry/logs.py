"""Logs: JSON lines on stdout, readable text on a terminal.

Lines go through a bounded queue to a thread, so that a reader who stopped reading blocks nobody; what does not fit
is counted and the count is logged when there is room again.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from gateway.core.body import encode
from gateway.core.records import OutcomeRecord

Fields = Mapping[str, object]
Line = Fields | OutcomeRecord
"""What is logged: fields, or a call's outcome, which is put into words by the thread that writes it."""

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The call being served; put on every line logged while it is."""

_MOST_LINES = 20_000
_PAUSE_S = 0.05
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own. Never blocks and never raises at the caller."""

    def __init__(self, fd: int, render: Callable[[Fields], bytes]) -> None:
        self._fd = fd
        self._render = render
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, entry: Line) -> None:
        """Queue a line; a full queue drops it and counts the drop."""
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, as far as the reader lets us within the time."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._write_queued()
            if self._closing and not self._lines:
                return
            time.sleep(_PAUSE_S)  # gathers what follows into one write

    def _write_queued(self) -> None:
        lines = self._lines
        while lines:
            batch = b"".join([self._render(_fields(lines.popleft())) for _ in range(min(len(lines), 500))])
            dropped, self._dropped = self._dropped, 0
            if dropped:
                batch += self._render(line("warning", "aidock.logs", "log lines dropped", {"dropped": dropped}))
            try:
                _write_all(self._fd, batch)
            except OSError:  # nobody reads: there is nowhere left to say so
                lines.clear()


class QueueHandler(logging.Handler):
    """Takes the standard library's records to a `LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the message must cost neither line nor caller
            message = f"{record.msg} {record.args}"
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            extra["error.stack_trace"] = logging.Formatter().formatException(record.exc_info)
        self._writer.put(line(record.levelname.lower(), record.name, message, extra, record.created))


def line(level: str, logger: str, message: str, fields: Fields, created: float | None = None) -> Fields:
    """A log line as data: the common fields, then its own."""
    common: dict[str, object] = {
        "@timestamp": time.time() if created is None else created,
        "log.level": level,
        "log.logger": logger,
        "message": message,
    }
    current = request_id.get()
    if current:
        common["http.request.id"] = current
    common.update(fields)
    return common


def _fields(entry: Line) -> Fields:
    return call_fields(entry) if isinstance(entry, OutcomeRecord) else entry


def call_fields(record: OutcomeRecord) -> Fields:
    """A call's line. It has no prompt, no answer and no credential: the record has none."""
    return {
        "@timestamp": record.created_at + record.latency_ms / 1000,
        "log.level": "info",
        "log.logger": "aidock.calls",
        "message": "call",
        "http.request.id": record.request_id,
        "event.action": record.endpoint,
        "event.outcome": record.outcome,
        "http.response.status_code": record.status,
        "event.duration_ms": record.latency_ms,
        "aidock.first_token_ms": record.first_token_ms,
        "aidock.attempts": record.attempts,
        "aidock.provider": record.provider,
        "gen_ai.request.model": record.model_id,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "aidock.cost_microusd": record.cost_microusd,
        **_units(record),
        **_saved(record),
        "user.id": record.user,
        "organization.name": record.department,
        "aidock.key": record.key_id,
    }


def _units(record: OutcomeRecord) -> Fields:
    return {} if record.unit is None else {"aidock.units": record.units, "aidock.unit": record.unit}


def _saved(record: OutcomeRecord) -> Fields:
    return {"aidock.saved_microusd": record.saved_microusd} if record.saved_microusd else {}


def as_json(fields: Fields) -> bytes:
    """A line for machines."""
    stamped = {**fields, "@timestamp": _iso(fields["@timestamp"])}
    try:
        return encode(stamped) + b"\n"
    except (TypeError, ValueError, OverflowError):
        # A value that is no JSON, an integer past 64 bits or text with a lone surrogate must not cost the line.
        return encode({name: _scalar(value) for name, value in stamped.items()}) + b"\n"


def as_text(fields: Fields) -> bytes:
    """A line for people."""
    rest = dict(fields)
    at, level, _, message = (rest.pop(k) for k in ("@timestamp", "log.level", "log.logger", "message"))
    trace = rest.pop("error.stack_trace", None)
    colour = _COLOURS.get(str(level), "")
    values = " ".join(f"{name}={_printable(value)}" for name, value in rest.items())
    text = f"{_iso(at)[11:23]} {colour}{level:<7}{colour and _RESET} {_printable(message)}  {values}".rstrip()
    if trace:
        text = "\n".join([text, *map(_printable, str(trace).split("\n"))])
    return f"{text}\n".encode(errors="replace")


def set_up(format: Literal["auto", "json", "text"], level: str = "info") -> LineWriter:
    """Send all logging of this process to stdout. Returns the writer, to be closed at the end."""
    text = format == "text" or (format == "auto" and sys.stdout.isatty())
    writer = LineWriter(sys.stdout.fileno(), as_text if text else as_json)
    root = logging.getLogger()
    root.handlers[:] = [QueueHandler(writer)]
    root.setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel("CRITICAL")  # what clients send is no news
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "alembic"):
        logging.getLogger(chatty).setLevel("WARNING")
        logging.getLogger(chatty).handlers[:] = []
        logging.getLogger(chatty).propagate = True
    return writer


_RESET = "\x1b[0m"


def _iso(at: object) -> str:
    seconds, fraction = divmod(at if isinstance(at, int | float) else 0.0, 1)
    return f"{_second(int(seconds))}.{int(fraction * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _scalar(value: object) -> object:
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return str(value).encode(errors="replace").decode()


def _printable(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
