"""The connection to Redis or a server that speaks like it, and the scripts that it is given."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Coroutine, Sequence
from importlib import resources
from typing import Any, TypeVar

import hiredis
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from gateway.core.ports import StoreUnavailable
from gateway.quotas.batcher import Command, LinkBroken, Refused, Reply, StoreChanged
from gateway.quotas.dial import AnyConnection, Dialer, Misfit, ask_info, hang_up
from gateway.quotas.patience import Patience
from gateway.quotas.server_info import ServerInfo
from gateway.settings.redis_url import parse_redis_url

GREETING_S = 2.0
"""How long connecting may take when nobody waits for it: a far server has to be met in several round trips, and must
not be lost for ever because they take longer than a call may be kept."""

log = logging.getLogger("aidock.quotas")

T = TypeVar("T")


def _scripts() -> dict[str, bytes]:
    """One file per verb, what they share put before each."""
    texts = {
        file.name.removesuffix(".lua"): file.read_bytes()
        for file in resources.files(__package__).iterdir()
        if file.name.endswith(".lua")
    }
    common = texts.pop("common")
    return {verb: common + texts[verb] for verb in sorted(texts)}


SOURCES = _scripts()
DIGESTS = {verb: hashlib.sha1(source, usedforsecurity=False).hexdigest() for verb, source in SOURCES.items()}


class StoreUnfit(StoreUnavailable):
    """The store answers and cannot be used as it is. The message names a remedy."""


class RedisLink:
    """One connection. On any doubt about what comes next on it, it is dropped.

    One deadline covers a whole exchange, which a trickle of bytes cannot stretch and which costs no task per send. A
    server is greeted before it gets a command: `info` is what the present or last one said, and a replica is refused.
    """

    def __init__(self, url: str) -> None:
        """Raises `ValueError`."""
        self._dialer = Dialer(parse_redis_url(url))
        self._connection: AnyConnection | None = None
        self._told_of_eviction = False
        self.info = ServerInfo()

    async def open(self, within_s: float, *, strict: bool = True) -> float:
        """Connect and load the scripts; the server's time in unix seconds. Raises `StoreUnavailable`, and `StoreUnfit`
        for what waiting does not mend. `strict` refuses a server that may evict, and warns of one with known holes."""
        questions = [*(pack("SCRIPT", "LOAD", source) for source in SOURCES.values()), pack("TIME")]
        self._told_of_eviction = strict
        try:
            *digests, moment = await self._within(within_s, self._converse(questions, within_s))
        except Misfit as error:
            raise StoreUnfit(str(error)) from error
        except (TimeoutError, LinkBroken) as error:
            raise StoreUnavailable(f"the counter store cannot be reached: {str(error) or 'timeout'}") from error
        for reply in (*digests, moment):
            if isinstance(reply, ResponseError):
                await self.close()
                raise StoreUnfit(f"the counter store refuses the gateway's scripts: {reply}")
        if strict:
            await self._insist()
        seconds, micros = moment
        return int(seconds) + int(micros) / 1e6

    async def _insist(self) -> None:
        info = self.info
        if info.may_evict:
            await self.close()
            raise StoreUnfit(
                f"the counter store forgets counters when its memory is full: its maxmemory-policy is "
                f"{info.eviction_policy}; set it to noeviction"
            )
        if info.mended_in is not None:
            log.warning(
                "The counter store's Lua has known security holes; update it.",
                extra={"version": info.version, "mended_in": info.mended_in},
            )

    async def exchange(self, commands: Sequence[Command], within_s: float) -> Sequence[Reply | Refused]:
        if self._connection is None and all(command.reply is None for command in commands):
            within_s = max(within_s, GREETING_S)
        if commands:
            return await self._within(within_s, self._run(commands, within_s))
        await self._within(within_s, self._converse([_PING], within_s))
        return []

    async def refresh(self, within_s: float) -> ServerInfo:
        """Ask the server anew what it is, between exchanges. Raises `TimeoutError` and `LinkBroken`."""
        return await self._within(within_s, self._ask(within_s))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await hang_up(connection)

    async def _within(self, seconds: float, talk: Coroutine[Any, Any, T]) -> T:
        """Whatever goes wrong, a time-out or a cancelled task included, the connection goes with it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as timeout:
                with Patience(seconds, lambda: timeout.reschedule(loop.time())):
                    return await talk
        except TimeoutError:
            await self.close()
            raise
        except (RedisError, OSError) as error:
            await self.close()
            raise LinkBroken(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def _run(self, commands: Sequence[Command], within_s: float) -> list[Reply | Refused]:
        replies = await self._converse([command.packed for command in commands], within_s, commands)
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await self._converse([_by_source(commands[index]) for index in unknown], within_s)
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        return [_own(command, reply) for command, reply in zip(commands, replies, strict=True)]

    async def _converse(self, packed: Sequence[bytes], within_s: float, commands: Sequence[Command] = ()) -> list[Any]:
        """Send, then read a reply for each; error replies come as `ResponseError` objects."""
        connection = self._connection or await self._connect(within_s)
        for command in commands:
            command.sent = True
        try:
            await connection.send_packed_command(b"".join(packed), check_health=False)
        except RuntimeError as error:  # uvloop's word for a connection that has been reset
            raise LinkBroken(str(error)) from error
        return [await _read(connection) for _ in packed]

    async def _connect(self, within_s: float) -> AnyConnection:
        before = self.info.run_id
        self._connection, info = await self._dialer.dial(within_s)
        self._note(info)
        if before not in ("", info.run_id):
            raise StoreChanged("the counter store has been started anew, or replaced")
        return self._connection

    async def _ask(self, within_s: float) -> ServerInfo:
        if self._connection is None:
            await self._connect(within_s)
        elif await self._dialer.is_current(within_s / 2):
            self._note(await ask_info(self._connection))
        else:
            raise LinkBroken("the counter store has been replaced by its sentinels")
        return self.info

    def _note(self, info: ServerInfo) -> None:
        self.info = info
        if info.may_evict and not self._told_of_eviction:
            log.error(
                "The counter store forgets counters when its memory is full; set its maxmemory-policy to noeviction.",
                extra={"maxmemory": info.maxmemory, "maxmemory_policy": info.eviction_policy},
            )
        self._told_of_eviction = info.may_evict


async def _read(connection: AnyConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except ResponseError as error:
        return error


def _own(command: Command, reply: Any) -> Reply | Refused:
    """The reply, if it is this command's. One that is not means that all on this connection are in doubt."""
    if type(reply) is list and len(reply) >= 2 and reply[0] == command.tag.encode():
        return reply
    if isinstance(reply, ResponseError):
        if isinstance(reply, ReadOnlyError) or "READONLY" in str(reply):  # 6.2 wraps what a script runs into
            raise LinkBroken("the counter store is a replica now")  # connecting again may find the new primary
        return Refused(str(reply))
    raise LinkBroken("a reply belongs to another request")


def _by_source(command: Command) -> bytes:
    """For a server that has lost its scripts. This also loads it again."""
    return pack("EVAL", SOURCES[command.script], *command.arguments)


def pack(*words: str | bytes | int) -> bytes:
    """One command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type] # its stub takes a tuple of one word only
    return packed


_PING = pack("PING")
