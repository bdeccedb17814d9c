"""What went wrong with an attempt, as routing understands it: whether to try again, when, and where else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gateway.core.errors import GatewayError, upstream_error, upstream_timeout
from gateway.core.records import Outcome
from gateway.core.upstream import UpstreamFailure
from gateway.routing import Kind

_WORTH_REPEATING = frozenset({502, 503, 529})
"""Statuses by which an upstream says that it did not do the work and may do it now."""
_OURS = frozenset({401, 402})
"""Statuses about the gateway's own credential or account."""


class Unanswered(Exception):
    """An attempt that failed. `again`: the same deployment may do better at once; `wait`: its upstream has said in how
    many seconds to come again. `told` is what the client is told instead, where there was a failure before."""

    def __init__(self, error: GatewayError, kind: Kind, *, again: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.kind = kind
        self.told: GatewayError | None = None
        self.wait = advised_wait(error.headers)
        self.again = again and self.wait is None and self.may_repeat

    @property
    def may_repeat(self) -> bool:
        """False where the upstream asks not to be asked again."""
        return self.error.headers.get("x-should-retry") != "false"

    @property
    def elsewhere(self) -> bool:
        """Whether another deployment of the same model may do better: one with another key, at the same place. Where
        the upstream may have worked on the call, it would do so again."""
        return self.kind in ("rate_limit", "credential", "forbidden", "server_error")


def refused(status: int, error: GatewayError) -> Unanswered:
    """An upstream's error status, and what its dialect makes of it."""
    if status == 401 and error.headers.get("x-should-retry") == "true":
        return Unanswered(error, "server_error", again=True)  # of a token that the next try has another of
    if status in _OURS:
        return Unanswered(error, "credential")
    if status == 403:
        return Unanswered(error, "forbidden")  # our credential's fault, or of something that the caller named
    kind = kind_of(error)
    if kind == "server_error" and 400 <= status < 500:
        kind = "caller"  # however little is said about it
    return Unanswered(error, kind, again=status in _WORTH_REPEATING or kind == "timeout")


def unauthorized(error: GatewayError) -> Unanswered:
    """A credential that could not be had: refused until a person mends it, or its giver fails now."""
    for_good = error.headers.get("x-should-retry") == "false"
    return Unanswered(error, "credential" if for_good else "server_error")


def unusable(error: GatewayError) -> Unanswered:
    """An answer whose status was good and whose content was not: an error in it, or nothing that can be read."""
    return Unanswered(error, kind_of(error, otherwise="broken"))


def broken(failure: UpstreamFailure, *, sent: bool, begun: bool) -> Unanswered:
    """A broken exchange. `sent`: the upstream may have read the request; `begun`: the client has some of the
    answer."""
    if failure.kind.endswith("timeout"):
        error = upstream_timeout(f"The provider did not answer in time ({failure.kind.replace('_', ' ')}).")
    elif begun:
        error = upstream_error("The provider broke off in the middle of its answer.")
    elif sent:
        error = upstream_error("The provider closed the connection without a usable answer.")
    else:
        error = upstream_error("The provider cannot be reached.")
    if failure.unsent or failure.kind == "connect_timeout":
        return Unanswered(error, "connect", again=failure.unsent)
    return Unanswered(error, "timeout" if failure.kind.endswith("timeout") else "broken", again=error.status == 504)


def kind_of(error: GatewayError, otherwise: Kind = "server_error") -> Kind:
    """What an error that an upstream told is about."""
    if error.code == "context_length_exceeded":
        return "context_window"
    if error.code == "content_filter":
        return "content_policy"
    if error.code == "insufficient_quota":
        return "credential"  # the gateway's account is empty, which waiting does not mend
    if error.status == 429:
        return "rate_limit"
    if error.status == 504:
        return "timeout"
    return otherwise if error.status >= 500 else "caller"


def outcome_of(error: GatewayError) -> Outcome:
    """How the ledger calls it."""
    return "timeout" if error.code == "upstream_timeout" else "upstream_error"


def advised_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that `retry-after-ms` or `retry-after` asks for, None without either. Providers keep sane ones
    only."""
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
