"""Access tokens as OAuth 2 gives them: a form posted to a token endpoint.

A token is kept until shortly before it ends. Whoever needs one while it is fetched waits for that one fetch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from urllib.parse import urlencode

from gateway.core.body import DecodeError, decode
from gateway.core.deployment import Deadlines
from gateway.core.errors import DO_NOT_RETRY, GatewayError, upstream_error, upstream_timeout
from gateway.core.headers import safe_value
from gateway.core.upstream import UpstreamFailure, UpstreamRequest
from providers._address import origin, path_below

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from gateway.core.upstream import Transport

LIFETIME_S = 3600
"""What a token has whose giver does not say."""

LONGEST_S = 86_400
"""No token is kept for longer, whatever its giver says."""

MARGIN_S = 60.0
"""How long before its end a token is not used any more: a call that starts with it must be let in, not be finished."""

YOUNG_S = 1.0
"""A token younger than this is not given up: what was refused is the one before it, or the next would be, too."""

_DEADLINES = Deadlines(connect=5.0, first_byte=10.0, idle=10.0)
_MOST_BYTES = 64 * 2**10
_MOST_TOKENS = 256


class Question(NamedTuple):
    """What gets a token: a form for the token endpoint at `url`."""

    url: str
    form: Mapping[str, str]


class Token(NamedTuple):
    """The value of an `authorization` header. `since` and `until` are on the monotonic clock."""

    header: bytes
    since: float
    until: float


_Credential = TypeVar("_Credential", bound=Hashable)


class Tokens(Generic[_Credential]):
    """The tokens of all credentials of one kind. One object per process and dialect.

    `ask` makes the question of a credential; its `ValueError` says what is wrong with one that cannot be used. `giver`
    and `credential` name, in errors, who gives the tokens and for what.
    """

    def __init__(
        self,
        ask: Callable[[_Credential], Awaitable[Question]],
        giver: str,
        credential: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._giver = giver
        self._kind = credential
        self._clock = clock
        self._tokens: dict[_Credential, Token] = {}
        self._fetches: dict[_Credential, asyncio.Task[Token]] = {}

    async def header(self, credential: _Credential, target: Target, transport: Transport) -> bytes:
        """The value of an `authorization` header that is good now. Raises `GatewayError` where none can be had."""
        token = self._tokens.get(credential)
        if token is not None and self._clock() < token.until:
            return token.header
        fetch = self._fetches.get(credential)
        if fetch is None:
            fetch = self._fetches[credential] = asyncio.create_task(self._fetch(credential, target, transport))
            fetch.add_done_callback(lambda done: self._note(credential, done))
        # A caller that leaves must not take the token away from those who wait beside it.
        return (await asyncio.shield(fetch)).header

    def refused(self, credential: _Credential, error: GatewayError) -> None:
        """An upstream took its token for no good, as `error` says: the next try gets another, and may be made at
        once."""
        token = self._tokens.get(credential)
        if token is not None and self._clock() - token.since < YOUNG_S:
            return
        self._tokens.pop(credential, None)
        error.headers = {**error.headers, "x-should-retry": "true"}

    def _note(self, credential: _Credential, done: asyncio.Task[Token]) -> None:
        del self._fetches[credential]
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._tokens) >= _MOST_TOKENS:  # of configurations long gone
            self._tokens.clear()
        self._tokens[credential] = done.result()

    async def _fetch(self, credential: _Credential, target: Target, transport: Transport) -> Token:
        provider = f"The provider '{target.upstream.name}'"
        try:
            question = await self._ask(credential)
        except ValueError as error:
            raise _for_good(f"{provider} cannot be asked: {error}.") from error
        asked = self._clock()
        try:
            status, body = await _post(question, transport)
        except UpstreamFailure as failure:
            if failure.kind.endswith("timeout"):
                raise upstream_timeout(f"{provider} gave no access token in time.") from failure
            raise upstream_error(f"{provider} cannot be reached for an access token.") from failure
        granted = _read(body) if status == 200 else None
        if granted is None:
            raise self._refused(status, provider)
        value, lifetime = granted
        return Token(b"Bearer " + safe_value(value), self._clock(), asked + lifetime - min(MARGIN_S, lifetime / 2))

    def _refused(self, status: int, provider: str) -> GatewayError:
        if 400 <= status < 500 and status not in (408, 429):
            return _for_good(f"{provider} was not asked: {self._giver} refused the gateway's {self._kind}.")
        return upstream_error(f"{provider} was not asked: {self._giver} gave no access token (status {status}).")


def _for_good(said: str) -> GatewayError:
    """What trying again does not mend."""
    error = upstream_error(f"{said} An administrator must check it.")
    error.headers = {**error.headers, **DO_NOT_RETRY}
    return error


async def _post(question: Question, transport: Transport) -> tuple[int, bytes]:
    """What the token endpoint answered: status and body, which is cut where it is longer than any token."""
    parent, _, name = question.url.rpartition("/")
    request = UpstreamRequest(
        b"POST",
        origin(question.url),
        path_below(parent, name),
        [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"aidock"),
        ],
        urlencode(question.form).encode(),
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


def _read(body: bytes) -> tuple[str, float] | None:
    """The token of an answer and the seconds it has, None where there is none."""
    try:
        document = decode(body)
    except DecodeError:
        return None
    if not isinstance(document, dict):
        return None
    token, lifetime = document.get("access_token"), document.get("expires_in", LIFETIME_S)
    if not isinstance(token, str) or not token or isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
        return None
    return token, max(0, min(lifetime, LONGEST_S))
