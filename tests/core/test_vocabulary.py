"""Ids, headers, secrets, errors and dialects."""

import copy
import json
import pickle
import re
import subprocess
import sys
import time
import traceback
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import errors
from gateway.core.dialect import OPENAI
from gateway.core.headers import first, safe_value
from gateway.core.ids import new_request_id
from gateway.core.limits import Actual, Level
from gateway.core.secret import Secret
from gateway.core.upstream import Origin, UpstreamRequest
from tests.support.calls import a_limit, a_target


def test_request_ids_are_version_7_uuids_of_now_that_never_repeat() -> None:
    before = int(time.time() * 1000)
    ids = [new_request_id() for _ in range(10_000)]
    after = int(time.time() * 1000)
    assert len(set(ids)) == len(ids)
    for text in ids[::500]:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= after


def test_request_ids_sort_by_their_millisecond() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_request_id())
        time.sleep(0.003)
    assert ids == sorted(ids)


def test_two_processes_make_different_ids() -> None:
    code = "from gateway.core.ids import new_request_id; print(*[new_request_id() for _ in range(100)])"
    made = [subprocess.check_output([sys.executable, "-c", code]).split() for _ in range(2)]
    assert len({*made[0], *made[1]}) == 200


@given(st.text(max_size=50))
def test_no_text_can_end_a_header_line(text: str) -> None:
    value = safe_value(text)
    assert re.fullmatch(rb"[ -~]*", value)
    assert len(value) == len(text)
    if text.isascii() and text.isprintable():
        assert value == text.encode()


def test_the_first_value_of_a_header_counts() -> None:
    headers = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert (first(headers, b"a"), first(headers, b"c")) == (b"1", None)


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret("sk-hidden")
    request = UpstreamRequest(
        b"POST", Origin("https", "h", 1), b"/?key=sk-hidden", [(b"k", b"sk-hidden")], b"sk-hidden", a_target().deadlines
    )
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>20}",
        "".join(map(str, [secret])),
        repr([secret]),
        repr(request),
    ]
    try:
        raise ValueError(secret)
    except ValueError:
        shown.append(traceback.format_exc())
    assert not [text for text in shown if "sk-hidden" in text]
    assert secret.reveal() == "sk-hidden"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert not hasattr(secret, "__dict__")
    assert "sk-upstream" not in repr(a_target())


def test_secrets_compare_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert (bool(Secret("a")), bool(Secret(""))) == (True, False)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (errors.invalid_request("m"), 400, "invalid_request", "false"),
        (errors.invalid_api_key("m"), 401, "invalid_api_key", "false"),
        (errors.model_not_found("m"), 404, "model_not_found", "false"),
        (errors.request_too_large("m"), 413, "request_too_large", "false"),
        (errors.request_too_large("m", status=431), 431, "request_too_large", "false"),
        (errors.rate_limited("m", 7), 429, "rate_limit_exceeded", None),
        (errors.quota_exhausted("m", 7), 429, "insufficient_quota", "false"),
        (errors.accounting_unavailable("m"), 503, "accounting_unavailable", None),
        (errors.upstream_error("m"), 502, "upstream_error", None),
        (errors.upstream_timeout("m"), 504, "upstream_timeout", None),
        (errors.no_healthy_deployment("m"), 503, "no_healthy_deployment", None),
        (errors.internal_error("r1"), 500, "internal_error", None),
        (errors.overloaded(), 503, "overloaded", None),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_each_way_to_fail_has_one_status_and_code_and_says_what_must_not_be_repeated(
    error: errors.GatewayError, status: int, code: str, retry: str | None
) -> None:
    assert (error.status, error.code) == (status, code)
    assert error.headers.get("x-should-retry") == retry
    told = json.loads(OPENAI.error_body(error, "r1"))["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert (told["message"], told["code"]) == (error.message, code)
    assert all(name == name.lower() for name in error.headers)


def test_waits_are_at_least_a_second_and_left_out_where_waiting_does_not_help() -> None:
    assert errors.rate_limited("m", 0).headers["retry-after"] == "1"
    assert "retry-after" not in errors.quota_exhausted("m", None).headers


@given(st.text())
def test_an_error_in_a_stream_is_one_event_whatever_its_message(message: str) -> None:
    error = errors.upstream_error(message.encode("utf-8", "replace").decode())
    event = OPENAI.error_event(error, "r1")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert b"\r" not in event
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == error.message


def test_what_is_left_is_never_negative_and_places_settle_to_nothing() -> None:
    assert Level(a_limit("tokens", 10), 25, None).remaining == 0
    assert Level(a_limit("tokens", 10), 4, None).remaining == 6
    assert [Actual(1, 2, 3).of(metric) for metric in ("requests", "tokens", "cost", "parallel")] == [1, 2, 3, 0]
