"""What went wrong, as routing understands it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gateway.core.errors import GatewayError, invalid_request, upstream_error, upstream_timeout
from gateway.core.upstream import FailureKind, UpstreamFailure
from gateway.failures import Unanswered, advised_wait, broken, outcome_of, refused, unauthorized, unusable
from gateway.routing import Kind


def failed(status: int, code: str = "x", **headers: str) -> GatewayError:
    return GatewayError(status, code, "as planned", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.parametrize(
    ("status", "error", "kind", "again"),
    [
        (401, upstream_error("ours"), "credential", False),
        (401, failed(502, x_should_retry="true"), "server_error", True),
        (402, upstream_error("ours"), "credential", False),
        (403, upstream_error("ours"), "forbidden", False),
        (429, failed(429, "insufficient_quota"), "credential", False),
        (429, failed(429, "rate_limit_exceeded"), "rate_limit", False),
        (400, failed(400, "context_length_exceeded"), "context_window", False),
        (400, failed(400, "content_filter"), "content_policy", False),
        (400, failed(400), "caller", False),
        (404, failed(404), "caller", False),
        (400, upstream_error("HTML"), "caller", False),
        (408, upstream_timeout("slow"), "timeout", True),
        (504, upstream_timeout("slow"), "timeout", True),
        (500, upstream_error("broke"), "server_error", False),
        (502, upstream_error("broke"), "server_error", True),
        (503, upstream_error("busy"), "server_error", True),
        (529, upstream_error("busy"), "server_error", True),
        (302, upstream_error("moved"), "server_error", False),
    ],
)
def test_an_error_status_is_about_one_thing(status: int, error: GatewayError, kind: Kind, again: bool) -> None:
    found = refused(status, error)
    assert (found.kind, found.again, found.error) == (kind, again, error)


@pytest.mark.parametrize(
    ("kind", "unsent", "sent", "expected", "again"),
    [
        ("connect", True, False, "connect", True),
        ("connect_timeout", False, False, "connect", False),
        ("tls", True, False, "connect", True),
        ("first_byte_timeout", False, True, "timeout", True),
        ("idle_timeout", False, True, "timeout", True),
        ("cut", False, True, "broken", False),
        ("cut", True, False, "connect", True),
        ("protocol", False, True, "broken", False),
    ],
)
def test_a_broken_exchange_tells_whether_somebody_may_have_worked_on_it(
    kind: FailureKind, unsent: bool, sent: bool, expected: Kind, again: bool
) -> None:
    found = broken(UpstreamFailure(kind, "why", unsent=unsent), sent=sent, begun=False)
    assert (found.kind, found.again) == (expected, again)
    assert outcome_of(found.error) == ("timeout" if kind.endswith("timeout") else "upstream_error")


def test_an_answer_that_cannot_be_used_is_broken_unless_it_says_more() -> None:
    assert unusable(upstream_error("HTML")).kind == "broken"
    assert unusable(failed(429, "rate_limit_exceeded")).kind == "rate_limit"
    assert unusable(invalid_request("odd")).kind == "caller"


def test_what_an_upstream_may_have_worked_on_is_not_for_its_other_keys() -> None:
    others = {kind: Unanswered(upstream_error("x"), kind).elsewhere for kind in ("timeout", "broken", "connect")}
    assert not any(others.values())
    assert Unanswered(upstream_error("x"), "rate_limit").elsewhere


def test_an_upstreams_advice_outranks_what_would_be_done() -> None:
    assert refused(503, failed(502)).again
    assert not refused(503, failed(502, retry_after="1")).again
    assert not refused(503, failed(502, x_should_retry="false")).again
    assert not Unanswered(failed(429, x_should_retry="false"), "rate_limit").may_repeat


def test_a_wait_is_read_in_every_form() -> None:
    assert advised_wait({}) is None
    assert advised_wait({"retry-after": "2.5"}) == 2.5
    assert advised_wait({"retry-after": "9", "retry-after-ms": "150"}) == 0.15
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 15 < (advised_wait({"retry-after": soon}) or 0) <= 20
    assert advised_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failed(502, x_should_retry="false"), "credential"),
        (upstream_error("its giver is away"), "server_error"),
        (upstream_timeout("its giver is slow"), "server_error"),
    ],
)
def test_a_credential_that_cannot_be_had_now_may_be_had_soon(error: GatewayError, kind: Kind) -> None:
    failed = unauthorized(error)
    assert (failed.kind, failed.elsewhere, failed.again) == (kind, True, False)
