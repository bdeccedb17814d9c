"""Counters in Redis or a server that speaks like it, shared by any number of gateways."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib import resources
from typing import Any, TypeVar

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from gateway.core.limits import NOTHING, Actual, Claim, Denied, Granted, Level, Limit
from gateway.core.ports import StoreUnavailable
from gateway.quotas.batcher import DECISION_S, Batcher, Command, LinkBroken, Refused, Reply
from gateway.quotas.reservation import checked_actual, checked_claims
from gateway.quotas.windows import Calendar

NAMESPACE = "0"
"""A segment of every key. A rebuild writes into another one and then switches."""
START_S = 2.0
CLOSE_S = 5.0
SWEEP_S = 2.0
GRACE_S = 2 * 86_400
"""How long a counter outlives its window, for settlements that come late."""
REMEMBERED_LIMITS = 10_000

log = logging.getLogger("aidock.quotas")
T = TypeVar("T")


def _script(verb: str) -> bytes:
    folder = resources.files(__package__)
    return (folder / "common.lua").read_bytes() + (folder / f"{verb}.lua").read_bytes()


SOURCES = {verb: _script(verb) for verb in ("reserve", "settle", "renew", "peek", "sweep")}
DIGESTS = {verb: hashlib.sha1(source, usedforsecurity=False).hexdigest() for verb, source in SOURCES.items()}


class Slot:
    """What is fixed about a limit while its bucket lasts, ready for the wire."""

    __slots__ = ("ends_at", "key", "limit", "starts_at", "tail")

    def __init__(self, limit: Limit, key: str, starts_at: int, ends_at: int | None) -> None:
        self.limit = limit
        self.key = key
        self.starts_at = starts_at
        self.ends_at = ends_at
        expiry = "" if ends_at is None else str(ends_at + GRACE_S)
        self.tail = (str(limit.amount), limit.action, limit.metric, expiry)


class RedisStore:
    """A `CounterStore` in which every verb is one script call, atomic and idempotent by request id.

    `url` is redis://, rediss:// or unix://. `clock` may run from any origin and at any offset: the server's TIME is
    the time, learnt at start and again when a script finds the two more than 2 s apart. A hold past its lease is let
    go when someone needs its room and by any gateway's sweep every two seconds.

    The awaited verbs raise `StoreUnavailable` after `decision_s` of silence. A reservation given up after it was sent
    is refunded behind the caller's back, so nothing leaks.
    """

    def __init__(
        self,
        url: str,
        calendar: Calendar,
        *,
        prefix: str = "aidock",
        clock: Callable[[], float] = time.monotonic,
        decision_s: float = DECISION_S,
    ) -> None:
        self._calendar = calendar
        self._clock = clock
        self._offset = 0.0
        self._space = f"{{{prefix}}}:{NAMESPACE}"
        self._leases = f"{self._space}:leases"
        self._slots: dict[int, Slot] = {}
        self._tags = itertools.count()
        self._link = RedisLink(url, decision_s)
        self._batcher = Batcher(self._link, decision_s)
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        moment, policy = await self._link.open(START_S)
        self._offset = moment - self._clock()
        if policy not in ("noeviction", ""):
            log.warning(
                "The counter store may evict counters when its memory is full; set maxmemory-policy to noeviction.",
                extra={"maxmemory_policy": policy},
            )
        self._batcher.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        await self._batcher.close(CLOSE_S)

    async def reserve(self, rid: str, claims: Sequence[Claim], lease_s: float) -> Granted | Denied:
        checked_claims(claims)
        if not claims:
            return Granted(())
        now, slots, reply = await self._on_time(lambda now: self._reserving(rid, claims, lease_s, now))
        match reply[1]:
            case b"granted":
                return _granted(slots, reply[2:], now)
            case b"denied":
                index, used = _integers(reply[2:], 2)
                return Denied(_level(slots[index], used, now))
        raise StoreUnavailable("the counter store answered what was not asked")

    def settle(self, rid: str, actual: Actual) -> None:
        requests, tokens, cost = checked_actual(actual)
        self._batcher.post(_command("settle", rid, 2, self._record(rid), self._leases, rid, requests, tokens, cost))

    async def renew(self, rids: Sequence[str], lease_s: float) -> None:
        if not rids:
            return
        records = [self._record(rid) for rid in rids]
        tag = self._tag()
        await self._batcher.call(
            _command("renew", tag, 1 + len(records), self._leases, *records, tag, int(lease_s * 1000))
        )

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        if not limits:
            return []
        now, slots, reply = await self._on_time(lambda now: self._peeking(limits, now))
        used = _integers(reply[2:], len(slots))
        return [_level(slot, each, now) for slot, each in zip(slots, used, strict=True)]

    def _reserving(self, rid: str, claims: Sequence[Claim], lease_s: float, now: float) -> tuple[list[Slot], Command]:
        slots = [self._slot(limit, now) for limit, _ in claims]
        arguments: list[str | int] = [2 + len(slots), self._record(rid), self._leases]
        arguments += [slot.key for slot in slots]
        arguments += (rid, int(now * 1000), int(lease_s * 1000))
        for slot, (_, amount) in zip(slots, claims, strict=True):
            arguments.append(amount)
            arguments += slot.tail
        return slots, _command("reserve", rid, *arguments)

    def _peeking(self, limits: Sequence[Limit], now: float) -> tuple[list[Slot], Command]:
        slots = [self._slot(limit, now) for limit in limits]
        tag = self._tag()
        keys = [slot.key for slot in slots]
        return slots, _command("peek", tag, 1 + len(keys), self._leases, *keys, tag, int(now * 1000))

    async def _on_time(self, prepare: Callable[[float], tuple[list[Slot], Command]]) -> tuple[float, list[Slot], Reply]:
        """Call with keys for the server's time; when it says that ours is off, set ours by it and try once more."""
        for _ in range(2):
            now = self._clock() + self._offset
            slots, command = prepare(now)
            reply = await self._call(command)
            if reply[1] != b"clock":
                return now, slots, reply
            (milliseconds,) = _integers(reply[2:], 1)
            self._offset = milliseconds / 1000 - self._clock()
            log.warning("The clock was off the counter store's and is set by it.")
        raise StoreUnavailable("the counter store's clock does not hold still")

    async def _call(self, command: Command) -> Reply:
        try:
            return await self._batcher.call(command)
        except (StoreUnavailable, asyncio.CancelledError):
            if command.sent and command.script == "reserve":
                self.settle(command.tag, NOTHING)
            raise

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            tag = self._tag()
            with contextlib.suppress(StoreUnavailable):  # told and logged by whoever needs an answer
                await self._batcher.call(_command("sweep", tag, 1, self._leases, tag))

    def _slot(self, limit: Limit, now: float) -> Slot:
        """By identity: limits are shared by all calls of a configuration, and hashing one costs more than a look-up.
        The slot keeps its limit alive, so no other can get the same identity."""
        slot = self._slots.get(id(limit))
        if slot is not None and slot.starts_at <= now and (slot.ends_at is None or now < slot.ends_at):
            return slot
        if len(self._slots) >= REMEMBERED_LIMITS:
            self._slots.clear()
        bucket = self._calendar.bucket(limit.window, now)
        key = f"{self._space}:used:{limit.scope}:{limit.metric}:{limit.window}:{bucket.id}:{limit.subject}"
        slot = self._slots[id(limit)] = Slot(limit, key, bucket.starts_at, bucket.ends_at)
        return slot

    def _record(self, rid: str) -> str:
        return f"{self._space}:call:{rid}"

    def _tag(self) -> str:
        return str(next(self._tags))


def _granted(slots: Sequence[Slot], used: Sequence[bytes | int], now: float) -> Granted:
    levels = tuple([_level(slot, each, now) for slot, each in zip(slots, _integers(used, len(slots)), strict=True)])
    over = [i for i, (limit, each, _) in enumerate(levels) if each > limit.amount and limit.action != "deny"]
    return Granted(levels, tuple(over))


def _level(slot: Slot, used: int, now: float) -> Level:
    return Level(slot.limit, used, None if slot.ends_at is None else slot.ends_at - int(now))


def _integers(items: Sequence[bytes | int], count: int) -> list[int]:
    numbers = [item for item in items if type(item) is int]
    if len(numbers) != count or len(items) != count:
        raise StoreUnavailable("the counter store answered what was not asked")
    return numbers


class RedisLink:
    """One connection. On any doubt about what comes next on it, it is dropped.

    The library's own retries are off, and so is its timeout per read: one deadline covers the whole exchange, which a
    trickle of bytes cannot stretch and which costs no task per send.
    """

    def __init__(self, url: str, connect_s: float) -> None:
        options: dict[str, Any] = {**parse_url(url)}
        self._connection_class: type[Connection] = options.pop("connection_class", Connection)
        self._options = options | {
            "protocol": 2,
            "driver_info": None,
            "retry": None,
            "retry_on_timeout": False,
            "socket_timeout": None,
            "socket_connect_timeout": connect_s,
        }
        self._connection: Connection | None = None

    async def open(self, within_s: float) -> tuple[float, str]:
        """Connect, load the scripts; the server's time in unix seconds and its eviction policy, empty where it is not
        told. Raises `StoreUnavailable`."""
        questions = [_pack("SCRIPT", "LOAD", source) for source in SOURCES.values()]
        questions += [_pack("TIME"), _pack("CONFIG", "GET", "maxmemory-policy")]
        try:
            *digests, moment, told = await self._within(within_s, self._converse(questions))
        except (TimeoutError, LinkBroken) as error:
            raise StoreUnavailable(f"the counter store cannot be reached: {str(error) or 'timeout'}") from error
        for reply in (*digests, moment):
            if isinstance(reply, ResponseError):
                await self.close()
                raise StoreUnavailable(f"the counter store refused to start: {reply}")
        seconds, micros = moment
        known = isinstance(told, list) and len(told) == 2
        return int(seconds) + int(micros) / 1e6, told[1].decode() if known else ""

    async def exchange(self, commands: Sequence[Command], within_s: float) -> Sequence[Reply | Refused]:
        if commands:
            return await self._within(within_s, self._run(commands))
        await self._within(within_s, self._converse([_PING]))
        return []

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _within(self, seconds: float, talk: Coroutine[Any, Any, list[T]]) -> list[T]:
        """Whatever goes wrong, a time-out or a cancelled task included, the connection goes with it."""
        try:
            async with asyncio.timeout(seconds):
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

    async def _run(self, commands: Sequence[Command]) -> list[Reply | Refused]:
        replies = await self._converse([command.packed for command in commands], commands)
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await self._converse([_by_source(commands[index]) for index in unknown])
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        return [_own(command, reply) for command, reply in zip(commands, replies, strict=True)]

    async def _converse(self, packed: Sequence[bytes], commands: Sequence[Command] = ()) -> list[Any]:
        """Send, then read a reply for each; error replies come as `ResponseError` objects."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connection_class(**self._options)
            await connection.connect()  # type: ignore[no-untyped-call] # the library leaves it bare
        for command in commands:
            command.sent = True
        await connection.send_packed_command(b"".join(packed), check_health=False)
        return [await _read(connection) for _ in packed]


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except ResponseError as error:
        return error


def _own(command: Command, reply: Any) -> Reply | Refused:
    """The reply, if it is this command's. One that is not means that all on this connection are in doubt."""
    if type(reply) is list and len(reply) >= 2 and reply[0] == command.tag.encode():
        return reply
    if isinstance(reply, ReadOnlyError):
        raise LinkBroken("the counter store is a replica now")  # connecting again may find the new primary
    if isinstance(reply, ResponseError):
        return Refused(str(reply))
    raise LinkBroken("a reply belongs to another request")


def _command(script: str, tag: str, *arguments: str | int) -> Command:
    return Command(script, tag, arguments, _pack("EVALSHA", DIGESTS[script], *arguments))


def _by_source(command: Command) -> bytes:
    """For a server that has lost its scripts. This also loads it again."""
    return _pack("EVAL", SOURCES[command.script], *command.arguments)


def _pack(*words: str | bytes | int) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type] # its stub takes a tuple of one word only
    return packed


_PING = _pack("PING")
