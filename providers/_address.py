"""Where an upstream is, as requests to it need it, and the headers that all of them carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest

if TYPE_CHECKING:
    from gateway.core.deployment import Target, Upstream
    from gateway.core.headers import Headers

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin(base_url: str) -> Origin:
    """Where a base URL's connections go."""
    url = urlsplit(base_url)
    scheme = url.scheme or "https"
    return Origin(scheme, url.hostname or "", url.port or _DEFAULT_PORTS.get(scheme, 0))


def path_below(base_url: str, operation: str, query: Mapping[str, str] | None = None) -> bytes:
    """The request target of an operation below a base URL. Percent signs in `operation` stay as they are."""
    url = urlsplit(base_url)
    pairs = [url.query] if url.query else []
    pairs += [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in (query or {}).items()]
    path = f"{url.path.rstrip('/')}/{operation}" + (f"?{'&'.join(pairs)}" if pairs else "")
    return quote(path, safe="/%:?#[]@!$&'()*+,;=-._~").encode("ascii")


def check_request(target: Target, path: str, headers: Headers) -> UpstreamRequest:
    """A GET of a path below a target's base URL."""
    base_url = target.upstream.base_url
    below = path_below(base_url, path.lstrip("/"))
    return UpstreamRequest(b"GET", origin(base_url), below, list(headers), b"", target.deadlines)


def json_headers(upstream: Upstream, own: Headers) -> Headers:
    """The headers of every request with a JSON body: what is ours, then `own`, then what the operator configured, where
    the later wins."""
    headers = {
        b"content-type": b"application/json",
        b"accept-encoding": b"identity",  # answers are read as they pass, so they must not be compressed
        b"user-agent": b"aidock",
    }
    headers.update(own)
    headers.update((safe_value(name.lower()), safe_value(value)) for name, value in upstream.headers.items())
    return list(headers.items())
