"""What went wrong upstream, as the caller may know it.

Upstreams describe errors in many shapes; here they become one `GatewayError`. The caller's own mistakes keep their
status and message. What is the gateway's affair (its credential, its account, a broken upstream) is a 502 or 504.
Messages are bounded, and show neither secrets nor where the upstream is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from gateway.core.body import DecodeError, decode
from gateway.core.errors import GatewayError, upstream_error
from gateway.core.headers import first

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from gateway.core.headers import Headers

MESSAGE_LIMIT = 2_000
NAME_LIMIT = 100
LONGEST_WAIT_S = 7 * 86_400

_DEEPEST = 3

_NO_HEADERS: Headers = []
_CALLERS = {
    400: "invalid_request",
    404: "not_found",
    409: "conflict",
    413: "request_too_large",
    422: "invalid_request",
    429: "rate_limit_exceeded",
}
"""Statuses that reach the caller, with the code for an upstream that gives none."""

_TELLING = frozenset({413, 429})
"""Statuses that say enough without a readable body: proxies answer these in HTML."""

_STATUS_BY_NAME = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "badrequesterror": 400,
    "bad_request": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "notfounderror": 404,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout": 504,
    "timeout_error": 504,
}

_CONTEXT_TOO_LONG = re.compile(
    r"maximum (?:context|prompt|model) length"  # OpenAI, vLLM, Azure, Mistral, xAI
    r"|(?:exceeds?|longer than|greater than) the (?:\w+'s |model's |available |maximum )*(?:context|model length)"
    r"|available context size|exceed_context_size"  # llama.cpp
    r"|context[_ ]length[_ ]exceeded|context window"
    r"|`inputs` tokens \+ `max_new_tokens`"  # TGI, Together
    r"|prompt is too long|input is too long"
    r"|too many tokens: "  # Cohere
    r"|input token count .{0,40}exceeds the maximum number of tokens",  # Gemini
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content management policy|ResponsibleAIPolicyViolation", re.IGNORECASE)
_MARKUP = re.compile(r"<(?:!doctype|html|head|body|center|h1|title)\b", re.IGNORECASE)
_KEY = re.compile(r"\b(?:(?:sk|pk|rk|gsk|xai|hf|nvapi|pplx)[-_]|AIza|eyJ)[-_.*A-Za-z0-9]{8,}")
_BEARER = re.compile(r"\b(bearer|api[-_ ]?key[\"']?\s*[:=])\s*[\"']?[^\s\"',;]{6,}", re.IGNORECASE)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>\\)\]]+", re.IGNORECASE)
_PUBLIC_HOST = re.compile(r"(?:[a-z0-9-]+\.)+[a-z]{2,}", re.IGNORECASE)
_PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".svc", ".localdomain", ".cluster")
_REDACTED = "[redacted]"


class Told(NamedTuple):
    """What an upstream said of an error: nothing is certain, everything is text."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None
    status: int | None = None


def answered_error(status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
    """An error status with its body."""
    try:
        told = _told(decode(body))
    except DecodeError:
        told = None
    return _judge(status, headers, told, target)


def reported_error(document: object, target: Target) -> GatewayError:
    """An error inside an answer whose status was 200. Its status is what the error's own words amount to, else 502."""
    told = _told(document) or Told()
    status = told.status
    for name in (told.code, told.type):
        if status is None and name is not None:
            status = _STATUS_BY_NAME.get(name.lower())
    return _judge(status or 502, _NO_HEADERS, told, target)


def unreadable(target: Target) -> GatewayError:
    """An answer that is not what was asked for: HTML, broken JSON, something else."""
    return upstream_error(f"The provider '{target.upstream.name}' gave an answer that cannot be read.")


def redact(text: str, target: Target) -> str:
    """The text without credentials and without the upstream's address; links to public pages stay."""
    key = target.upstream.api_key
    if key and len(key.reveal()) >= 4:
        text = text.replace(key.reveal(), _REDACTED)
    text = _BEARER.sub(rf"\1 {_REDACTED}", _KEY.sub(_REDACTED, text))
    host, netloc = _address(target.upstream.base_url)
    text = _URL.sub(lambda link: link[0] if _is_public(link[0], host) else _REDACTED, text)
    for place in (netloc, host):
        if "." in place or ":" in place:
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", _REDACTED, text, flags=re.IGNORECASE)
    return text


def _judge(status: int, headers: Headers, told: Told | None, target: Target) -> GatewayError:
    """Whose affair it is."""
    said = _clean(told.message, target) if told else ""
    if status in (400, 413, 422) and told and _is_context(told):
        return _callers(400, said, told._replace(code="context_length_exceeded"), headers, target)
    if status == 400 and told and _is_filtered(told):
        return _callers(400, said, told._replace(code="content_filter"), headers, target)
    if status in _CALLERS and (told or status in _TELLING):
        return _callers(status, said, told or Told(), headers, target)
    return _gateways(status, said, headers, target)


def _callers(status: int, said: str, told: Told, headers: Headers, target: Target) -> GatewayError:
    code = told.code or _CALLERS[status]
    if code == "DeploymentNotFound" or (status == 404 and not told.code and "model" in said.lower()):
        code = "model_not_found"
    kind = told.type or ("rate_limit_error" if status == 429 else "invalid_request_error")
    kept = _kept_headers(headers)
    if status in (400, 404, 413, 422) or code == "insufficient_quota":
        kept["x-should-retry"] = "false"
    message = said or f"The provider '{target.upstream.name}' refused the request with status {status}."
    return GatewayError(
        status,
        _name(code, target) or _CALLERS[status],
        message,
        type=_name(kind, target) or "invalid_request_error",
        param=_name(told.param, target),
        headers=kept,
    )


def _gateways(status: int, said: str, headers: Headers, target: Target) -> GatewayError:
    provider = f"The provider '{target.upstream.name}'"
    kept = _kept_headers(headers)
    if status in (401, 403):
        message = f"{provider} refused the gateway's own credential. An administrator must check it."
    elif status == 402:
        message = f"{provider} wants payment: the gateway's own account has no credit. An administrator must check it."
    elif status in (408, 504):
        return GatewayError(
            504,
            "upstream_timeout",
            f"{provider} did not answer in time (status {status}).",
            type="server_error",
            headers=kept,
        )
    else:
        message = f"{provider} failed with status {status}" + (f": {said}" if said else ".")
    return GatewayError(502, "upstream_error", message[:MESSAGE_LIMIT], type="server_error", headers=kept)


def _told(document: object) -> Told | None:
    """Read any of the shapes vendors use; None when it is none of them."""
    if isinstance(document, list) and document:
        document = document[0]  # Gemini wraps its error in a list
    if not isinstance(document, Mapping):
        return None
    inner = document.get("error")
    if isinstance(inner, Mapping):
        return _told_by(inner)
    if isinstance(inner, str) and inner:
        return _told_by({**document, "message": inner, "type": document.get("error_type")})
    if any(name in document for name in ("message", "detail", "msg")):
        return _told_by(document)
    return None


def _told_by(members: Mapping[str, Any]) -> Told:
    code = members.get("code")
    inner = members.get("innererror") or members.get("inner_error")
    if isinstance(inner, Mapping) and inner.get("code") == "ResponsibleAIPolicyViolation":
        code = "content_filter"
    return Told(
        message=_message(members),
        type=_text(members.get("type")),
        param=_text(members.get("param")),
        code=_symbol(code) or _symbol(members.get("type") if members.get("type") == "insufficient_quota" else None),
        status=_status(code) or _status(members.get("status")),
    )


def _message(members: Mapping[str, Any], depth: int = 0) -> str:
    for name in ("message", "detail", "msg"):
        value = members.get(name)
        if isinstance(value, str) and value:
            return value
        if depth > _DEEPEST:
            return ""
        if isinstance(value, Mapping):
            return _message(value, depth + 1)
        if isinstance(value, list):
            return "; ".join(filter(None, (_complaint(item, depth + 1) for item in value[:8])))
    return ""


def _complaint(item: object, depth: int) -> str:
    """One entry of a validation error's list: where, and what."""
    if not isinstance(item, Mapping):
        return _text(item) or ""
    place = item.get("loc")
    where = ".".join(str(part) for part in place if isinstance(part, (str, int))) if isinstance(place, list) else ""
    what = _message(item, depth)
    return f"{where}: {what}" if where and what else what


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _symbol(value: object) -> str | None:
    """A code clients can branch on: a status in digits, or a null in words, is none."""
    text = _text(value)
    return None if text is None or text.isdigit() or text.lower() in ("none", "null") else text


def _status(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    return None


def _is_context(told: Told) -> bool:
    return any(text and _CONTEXT_TOO_LONG.search(text) for text in (told.code, told.type, told.message[:MESSAGE_LIMIT]))


def _is_filtered(told: Told) -> bool:
    return told.code == "content_filter" or _FILTERED.search(told.message[:MESSAGE_LIMIT]) is not None


def _clean(message: str, target: Target) -> str:
    if _MARKUP.search(message):
        return ""
    # Cut before redacting, which costs time by length, but leave room: a cut must not split a secret in sight.
    message = redact(message[: 2 * MESSAGE_LIMIT], target).strip()
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def _name(text: str | None, target: Target) -> str | None:
    return redact(text[:NAME_LIMIT], target) if text else None


def _kept_headers(headers: Headers) -> dict[str, str]:
    """The upstream's advice on when to try again, where it is sane."""
    kept: dict[str, str] = {}
    for name, factor in ((b"retry-after", 1.0), (b"retry-after-ms", 0.001)):
        value = (first(headers, name) or b"").decode("latin-1").strip()
        if _is_wait(value, factor) or (name == b"retry-after" and _is_date(value)):
            kept[name.decode()] = value
    advice = first(headers, b"x-should-retry")
    if advice in (b"true", b"false"):
        kept["x-should-retry"] = advice.decode()
    return kept


def _is_wait(value: str, factor: float) -> bool:
    try:
        seconds = float(value) * factor
    except ValueError:
        return False
    return value.isascii() and math.isfinite(seconds) and 0 <= seconds <= LONGEST_WAIT_S


def _is_date(value: str) -> bool:
    try:
        parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return False
    return value.isascii() and value.isprintable() and len(value) <= 40


def _address(base_url: str) -> tuple[str, str]:
    """Host and network location of a base URL; empty where it has none."""
    try:
        parts = urlsplit(base_url)
        return parts.hostname or "", parts.netloc.rpartition("@")[2]
    except ValueError:
        return "", ""


def _is_public(link: str, upstream_host: str) -> bool:
    """Whether a link may be shown: a public page, and not the upstream."""
    host, netloc = _address(link)
    return (
        link.startswith("https://")
        and "@" not in link
        and host == netloc.lower()
        and host != upstream_host.lower()
        and not host.endswith(_PRIVATE_SUFFIXES)
        and _PUBLIC_HOST.fullmatch(host) is not None
    )
