"""The one error a caller can see.

Everything that ends a call badly is a `GatewayError`: an HTTP status, a symbolic code from a short list, and a
message that says what happened, why, and what to do next. Endpoints render it in their caller's dialect; metrics
use the code as a label. Rooms with errors of their own (transport, storage) translate them here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
DO_NOT_RETRY: Mapping[str, str] = MappingProxyType({"x-should-retry": "false"})


class GatewayError(Exception):
    """A call that ends without an answer.

    `status` is the HTTP status, `code` the symbolic code clients branch on, `type` OpenAI's coarse class, `param`
    the request member at fault, `headers` what the reply carries besides (names in lower case).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type
        self.param = param
        self.headers = headers

    def __repr__(self) -> str:
        return f"GatewayError({self.status}, {self.code!r}, {self.message!r})"


def invalid_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> GatewayError:
    """400: the request itself is at fault; repeating it cannot help."""
    return GatewayError(400, code, message, param=param, headers=DO_NOT_RETRY)


def invalid_api_key(message: str) -> GatewayError:
    """401: no key, or one that is unknown, expired or revoked."""
    return GatewayError(401, "invalid_api_key", message, type="authentication_error", headers=DO_NOT_RETRY)


def model_not_found(message: str) -> GatewayError:
    """404: the model does not exist, or not for this caller; the two are not told apart."""
    return GatewayError(404, "model_not_found", message, param="model", headers=DO_NOT_RETRY)


def request_too_large(message: str, *, status: int = 413) -> GatewayError:
    """413 for a body, 431 for a header."""
    return GatewayError(status, "request_too_large", message, headers=DO_NOT_RETRY)


def rate_limited(message: str, retry_after_s: int) -> GatewayError:
    """429: a short window is full; the same request will pass once it has turned."""
    return GatewayError(
        429,
        "rate_limit_exceeded",
        message,
        type="rate_limit_error",
        headers={"retry-after": str(max(1, retry_after_s))},
    )


def quota_exhausted(message: str, retry_after_s: int | None) -> GatewayError:
    """429: a quota or budget is used up. SDKs are told not to retry: waiting seconds does not help."""
    headers = dict(DO_NOT_RETRY)
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, retry_after_s))
    return GatewayError(429, "insufficient_quota", message, type="insufficient_quota", headers=headers)


def accounting_unavailable(message: str) -> GatewayError:
    """503: the counters or the journal cannot take the call, so it must not be made."""
    return GatewayError(503, "accounting_unavailable", message, type="server_error", headers={"retry-after": "1"})


def upstream_error(message: str, *, status: int = 502) -> GatewayError:
    """502: the provider refused, broke, or answered what cannot be used."""
    return GatewayError(status, "upstream_error", message, type="server_error")


def upstream_timeout(message: str) -> GatewayError:
    """504: the provider did not answer in the time allowed."""
    return GatewayError(504, "upstream_timeout", message, type="server_error")


def no_healthy_deployment(message: str) -> GatewayError:
    """503: no deployment of the model can take the call now."""
    return GatewayError(503, "no_healthy_deployment", message, type="server_error", headers={"retry-after": "1"})


def overloaded(retry_after_s: int = 1) -> GatewayError:
    """503: as many calls run and wait as may."""
    message = "The gateway runs as many calls as it may. Try again shortly."
    return GatewayError(503, "overloaded", message, type="server_error", headers={"retry-after": str(retry_after_s)})


def internal_error(request_id: str) -> GatewayError:
    """500: a defect of ours. The message names only the request id; the log has the rest."""
    return GatewayError(
        500,
        "internal_error",
        f"The gateway failed to handle this request. Quote request id {request_id} to your administrator.",
        type="server_error",
    )
