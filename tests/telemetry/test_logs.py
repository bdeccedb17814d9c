"""Logs are lines: whatever they say, whoever reads them or does not."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.logs import LineWriter, QueueHandler, as_json, as_text, call_fields, line, request_id
from tests.ledger.support import outcome

NASTY = "a\r\nINFO fake line\x1b[31m red \x00 nul \u2028 \x85 tab\t end"
STAMP = 1_790_000_000.25


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        for descriptor in (read, write):
            with suppress(OSError):  # the test may have closed it itself
                os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 65_536):
        pieces.append(piece)
    return b"".join(pieces)


def logged(render: Any, *args: Any, exc_info: bool = False, **extra: Any) -> bytes:
    """What a logger of the standard library writes through our handler."""
    with pipe() as (read, write):
        writer = LineWriter(write, render)
        logger = logging.Logger("aidock.test")
        logger.addHandler(QueueHandler(writer))
        logger.warning(*args, exc_info=exc_info, extra=extra)
        writer.close(10)
        os.close(write)
        return read_all(read)


@given(st.text(), st.text())
def test_a_json_line_is_one_line_that_parses_whatever_it_says(message: str, value: str) -> None:
    written = as_json(line("info", "aidock.test", message, {"value": value}, STAMP))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert b"\r" not in written
    assert b"\x1b" not in written
    assert b"\x00" not in written
    told = json.loads(written)
    assert told["message"] == message.encode(errors="replace").decode()
    assert told["value"] == value.encode(errors="replace").decode()
    assert told["@timestamp"] == "2026-09-21T14:13:20.250Z"


@given(st.text(), st.text())
def test_a_text_line_is_one_line_that_a_terminal_can_show(message: str, value: str) -> None:
    written = as_text(line("info", "aidock.test", message, {"value": value}, STAMP))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert written.decode().removesuffix("\n").isprintable()


@pytest.mark.parametrize("render", [as_json, as_text])
def test_nothing_that_is_logged_can_start_a_line_or_colour_a_terminal(render: Any) -> None:
    written = logged(render, "user said %s", NASTY, value=NASTY)
    assert written.count(b"\n") == 1
    for control in (b"\r", b"\x00", b"\x1b[31m"):
        assert control not in written


def test_lone_surrogates_and_values_that_are_no_json_cost_no_line() -> None:
    odd = {"surrogate": "a\ud800b", "big": 2**70, "object": object(), "nan": float("nan"), "bytes": b"\xff", "set": {1}}
    for render in (as_json, as_text):
        written = logged(render, "odd \udcff", **odd)
        assert written.count(b"\n") == 1
        assert b"odd ?" in written or b"udcff" in written
    told = json.loads(logged(as_json, "odd", **odd))
    assert (told["surrogate"], told["big"]) == ("a?b", str(2**70))


def test_arguments_that_do_not_fit_cost_neither_the_line_nor_the_caller() -> None:
    assert b"%d items" in logged(as_json, "%d items", "many")


def test_a_line_names_the_call_that_is_served() -> None:
    token = request_id.set("r-123")
    try:
        assert json.loads(logged(as_json, "hello"))["http.request.id"] == "r-123"
    finally:
        request_id.reset(token)
    assert "http.request.id" not in json.loads(logged(as_json, "hello"))


def test_a_stack_trace_is_a_value_in_json_and_lines_for_people() -> None:
    written = {}
    for render in (as_json, as_text):
        try:
            raise ValueError("with \x1b[31m colour")
        except ValueError:
            written[render] = logged(render, "it failed", exc_info=True)
        assert b"\x1b[31m colour" not in written[render]
        assert b"ValueError" in written[render]
    assert written[as_json].count(b"\n") == 1
    assert b"\nTraceback" in written[as_text]


def test_a_call_is_one_line_with_what_its_record_says() -> None:
    with pipe() as (read, write):
        writer = LineWriter(write, as_json)
        writer.put(outcome("r1", latency_ms=1500))
        writer.close(10)
        os.close(write)
        told = json.loads(read_all(read))
    assert (told["http.request.id"], told["event.outcome"], told["log.logger"]) == ("r1", "ok", "aidock.calls")
    assert (told["gen_ai.usage.input_tokens"], told["event.duration_ms"]) == (12, 1500)


def test_a_call_that_is_measured_in_units_says_so_and_another_says_nothing_of_them() -> None:
    told = call_fields(outcome("r1", units=3, unit="image"))
    assert (told["aidock.units"], told["aidock.unit"]) == (3, "image")
    assert "aidock.units" not in call_fields(outcome("r1"))


def test_a_reader_that_stopped_reading_blocks_nobody_and_what_was_dropped_is_told() -> None:
    with pipe() as (read, write):
        writer = LineWriter(write, as_json)
        fields = {"@timestamp": STAMP, "log.level": "info", "log.logger": "x", "message": "m" * 500}
        began = time.monotonic()
        for _ in range(30_000):
            writer.put(fields)
        assert time.monotonic() - began < 5, "the pipe took some 130 lines, and nobody waited"
        writer.close(0.1)
        reading = threading.Thread(target=lambda: received.append(read_all(read)))
        received: list[bytes] = []
        reading.start()
        writer.close(30)
        os.close(write)
        reading.join(30)
    lines = [json.loads(text) for text in received[0].splitlines()]
    dropped = sum(told["dropped"] for told in lines if told["message"] == "log lines dropped")
    assert dropped > 0
    assert dropped + sum(told["message"].startswith("mm") for told in lines) == 30_000


def test_a_reader_that_left_is_no_reason_to_fail() -> None:
    with pipe() as (read, write):
        writer = LineWriter(write, as_json)
        os.close(read)
        for number in range(100):
            writer.put(line("info", "x", f"line {number}", {}))
        writer.close(10)
        assert not writer._thread.is_alive()
