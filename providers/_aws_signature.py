"""AWS signature version 4: a request as AWS canonicalises it, signed with a key that is derived for a day, a region and
a service."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from hmac import digest
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from gateway.core.credentials import AwsKeys
    from gateway.core.headers import Headers
    from gateway.core.upstream import UpstreamRequest

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SIGNED = (b"content-type", b"host", b"x-amz-date", b"x-amz-security-token")


def sign(request: UpstreamRequest, keys: AwsKeys, service: str, now: datetime) -> None:
    """Add the headers that prove who sends the request; `now` is UTC. A request that was signed before is signed
    anew."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    own: Headers = [(b"x-amz-date", stamp.encode())]
    if keys.session_token:
        own.append((b"x-amz-security-token", keys.session_token.reveal().encode()))
    replaced = {b"authorization", b"x-amz-date", b"x-amz-security-token"}
    request.headers[:] = [pair for pair in request.headers if pair[0] not in replaced] + own

    signed = sorted((name, value) for name, value in [*request.headers, (b"host", _host(request))] if name in _SIGNED)
    names = b";".join(name for name, _ in signed).decode()
    scope = f"{stamp[:8]}/{keys.region}/{service}/aws4_request"
    canonical = _canonical(request, signed, names)
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(canonical).hexdigest()}"
    signature = digest(_key(keys, stamp[:8], service), text.encode(), "sha256").hex()
    proof = f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    request.headers.append((b"authorization", proof.encode()))


def _canonical(request: UpstreamRequest, signed: Headers, names: str) -> bytes:
    path, _, query = request.target.decode("ascii").partition("?")
    return b"\n".join(
        [
            request.method,
            quote(path, safe="/~").encode(),  # what is percent-encoded on the wire is encoded once more
            "&".join(sorted(query.split("&"))).encode() if query else b"",
            *(name + b":" + b" ".join(value.split()) for name, value in signed),
            b"",
            names.encode(),
            sha256(request.body).hexdigest().encode(),
        ]
    )


def _key(keys: AwsKeys, day: str, service: str) -> bytes:
    key = b"AWS4" + keys.secret_access_key.reveal().encode()
    for part in (day, keys.region, service, "aws4_request"):
        key = digest(key, part.encode(), "sha256")
    return key


def _host(request: UpstreamRequest) -> bytes:
    """The Host header as the transport writes it."""
    scheme, host, port = request.origin
    name = f"[{host}]" if ":" in host else host
    return (name if port == _DEFAULT_PORTS.get(scheme) else f"{name}:{port}").encode()
