"""Access tokens for a Google service account: an assertion signed with its key, exchanged for a token at its token URI.

A token is kept until shortly before it ends. Whoever needs one while it is fetched waits for that one fetch.
"""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.core.body import DecodeError, decode, encode
from gateway.core.deployment import Deadlines
from gateway.core.errors import GatewayError, upstream_error, upstream_timeout
from gateway.core.headers import safe_value
from gateway.core.upstream import UpstreamFailure, UpstreamRequest
from providers._address import origin, path_below

if TYPE_CHECKING:
    from gateway.core.credentials import ServiceAccount
    from gateway.core.deployment import Target
    from gateway.core.upstream import Transport

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

LIFETIME_S = 3600
"""The longest that Google gives an assertion, and what its tokens usually have."""

MARGIN_S = 60.0
"""How long before its end a token is not used any more: a call that starts with it must be let in, not be finished."""

_DEADLINES = Deadlines(connect=5.0, first_byte=10.0, idle=10.0)
_MOST_BYTES = 64 * 2**10
_MOST_ACCOUNTS = 256


class Token(NamedTuple):
    """`until` is on the monotonic clock."""

    header: bytes
    until: float


class Tokens:
    """The tokens of all service accounts in use. One object per process."""

    def __init__(self) -> None:
        self._tokens: dict[ServiceAccount, Token] = {}
        self._fetches: dict[ServiceAccount, asyncio.Task[Token]] = {}

    async def header(self, account: ServiceAccount, target: Target, transport: Transport) -> bytes:
        """The value of an `authorization` header that is good now. Raises `GatewayError` where none can be had."""
        token = self._tokens.get(account)
        if token is not None and time.monotonic() < token.until:
            return token.header
        fetch = self._fetches.get(account)
        if fetch is None:
            fetch = self._fetches[account] = asyncio.create_task(_fetch(account, target, transport))
            fetch.add_done_callback(lambda done: self._note(account, done))
        # A caller that leaves must not take the token away from those who wait beside it.
        return (await asyncio.shield(fetch)).header

    def forget(self, account: ServiceAccount) -> None:
        """Its token was refused: the next call gets another."""
        self._tokens.pop(account, None)

    def _note(self, account: ServiceAccount, done: asyncio.Task[Token]) -> None:
        del self._fetches[account]
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._tokens) >= _MOST_ACCOUNTS:  # of configurations long gone
            self._tokens.clear()
        self._tokens[account] = done.result()


def assertion(account: ServiceAccount, now: float) -> str:
    """The JWT by which an account asks for a token, good for an hour from `now` (unix seconds). Raises `ValueError`
    where its key cannot sign."""
    try:
        key = load_pem_private_key(account.private_key.reveal().encode(), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("the key cannot be read") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the key is not an RSA key")  # noqa: TRY004  a wrong value in a file, not a wrong type here
    claims = {
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": int(now),
        "exp": int(now) + LIFETIME_S,
    }
    signed = f"{_part(encode({'alg': 'RS256', 'typ': 'JWT'}))}.{_part(encode(claims))}"
    return f"{signed}.{_part(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


async def _fetch(account: ServiceAccount, target: Target, transport: Transport) -> Token:
    provider = f"The provider '{target.upstream.name}'"
    try:
        # Checking an RSA key takes milliseconds, which the loop's other calls need not wait for.
        signed = await asyncio.to_thread(assertion, account, time.time())
    except ValueError as error:
        said = f"{provider} cannot be asked: the private key of its service account cannot be used."
        raise upstream_error(f"{said} An administrator must check it.") from error
    asked = time.monotonic()
    try:
        status, body = await _post(account, signed, transport)
    except UpstreamFailure as failure:
        if failure.kind.endswith("timeout"):
            raise upstream_timeout(f"{provider} gave no access token in time.") from failure
        raise upstream_error(f"{provider} cannot be reached for an access token.") from failure
    token = _read(body, asked) if status == 200 else None
    if token is None:
        raise _refused(status, provider)
    return token


async def _post(account: ServiceAccount, signed: str, transport: Transport) -> tuple[int, bytes]:
    """What the token endpoint answered: status and body, which is cut where it is longer than any token."""
    parent, _, name = account.token_uri.rpartition("/")
    request = UpstreamRequest(
        b"POST",
        origin(account.token_uri),
        path_below(parent, name),
        [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"aidock"),
        ],
        urlencode({"grant_type": GRANT, "assertion": signed}).encode(),
        _DEADLINES,
    )
    exchange = transport.exchange(request)
    try:
        await exchange.start()
        body = b""
        while len(body) <= _MOST_BYTES and (piece := await exchange.read()):
            body += piece
        return exchange.status, body
    finally:
        exchange.close()


def _read(body: bytes, asked: float) -> Token | None:
    """The token of an answer to a question of `asked`, None where there is none."""
    try:
        document = decode(body)
    except DecodeError:
        return None
    if not isinstance(document, dict):
        return None
    token, lifetime = document.get("access_token"), document.get("expires_in", LIFETIME_S)
    if not isinstance(token, str) or not token or isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
        return None
    return Token(b"Bearer " + safe_value(token), asked + lifetime - min(MARGIN_S, lifetime / 2))


def _refused(status: int, provider: str) -> GatewayError:
    if 400 <= status < 500 and status not in (408, 429):
        said = f"{provider} was not asked: Google refused the gateway's service account."
        return upstream_error(f"{said} An administrator must check it.")
    return upstream_error(f"{provider} was not asked: Google gave no access token (status {status}).")
