"""Four books that must agree after any fault: what clients saw, what the upstream billed, the ledger, the counters.

    books = Books(upstream, [gateway], [caller])
    ...                                        # load, and a fault in it
    await books.agree("Redis killed", recovery_s=1.2)

`agree` waits until the gateways are at rest, and raises `BooksDiffer` with every difference it found. It also notes a
line of the fault table in the file that AIDOCK_FAULT_TABLE names; `tests/faults/table.py` prints it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.faults.callers import Caller, Seen
from tests.support.billing_upstream import Bill, BillingUpstream
from tests.support.gateway import AccountingUnavailable, Gateway

SOAK = os.environ.get("AIDOCK_SOAK") == "1"
TABLE = "AIDOCK_FAULT_TABLE"
REST_S = 40.0
"""How long gateways may take to deliver and adopt what a fault has left behind."""
LEASE_OVER_S = 75.0
"""After so long nothing that a dead gateway held is held any more."""

_ENDS = ("charge", "refund", "orphan")
_ID = 36
_SCOPES = {"department": "department", "user": "user", "key": "key_id", "model": "model_id"}

Row = dict[str, Any]


class BooksDiffer(AssertionError):
    """Two of the books say different things."""


@dataclass(slots=True)
class Finding:
    """A line of the fault table. Counts of calls, except `drift` and `overspend`, which are in the limit's own unit."""

    fault: str
    calls: int = 0
    lost: int = 0
    duplicate: int = 0
    drift: int = 0
    overspend: int = 0
    leaked: int = 0
    recovery_s: float = 0.0


class Books:
    """The books of one installation. `gateways` share a database; the first that runs is asked. `spares` are the
    upstreams that calls go to where the first fails them."""

    def __init__(
        self,
        upstream: BillingUpstream,
        gateways: Sequence[Gateway],
        callers: Sequence[Caller],
        spares: Sequence[BillingUpstream] = (),
    ) -> None:
        self._upstreams = (upstream, *spares)
        self._gateways = gateways
        self._callers = callers

    @property
    def gateway(self) -> Gateway:
        """One that runs."""
        return next(gateway for gateway in self._gateways if gateway.running)

    @property
    def seen(self) -> list[Seen]:
        return [seen for caller in self._callers for seen in caller.seen]

    async def agree(
        self,
        fault: str,
        *,
        recovery_s: float = 0.0,
        dead_hold: int = 0,
        within_s: float = REST_S,
        counters_within_s: float = REST_S,
        damaged: Collection[str] = (),
    ) -> Finding:
        """Raises `BooksDiffer`. Of so many calls as `dead_hold` says, which a gateway that was killed had under way
        or a store has not heard the end of, the counters may have the holds until their leases are over; a soak waits
        for that. The calls in `damaged`, whose records a disk has not given back, are lost and no difference."""
        finding = Finding(fault, calls=len(self.seen), recovery_s=round(recovery_s, 2))
        await self.rest(within_s, damaged)
        rows = self.gateway.rows()
        calls = [*self._compare_calls(finding, rows), *self._compare_bills(finding, rows)]
        differences = [each for each in calls if each.partition(":")[0] not in damaged]
        patience = LEASE_OVER_S if dead_hold and SOAK else counters_within_s
        differences += await self._compare_counters(finding, patience, 0 if SOAK else dead_hold)
        try:
            await self.gateway.reconcile(within_s=counters_within_s)
        except AssertionError as error:
            differences.append(str(error))
        _note(finding)
        if differences:
            raise BooksDiffer("\n".join([fault, *differences[:20], f"({len(differences)} in all)"]))
        return finding

    async def rest(self, within_s: float = REST_S, damaged: Collection[str] = ()) -> None:
        """Return when no call runs, nothing waits in a journal, and every call that the upstream billed, other than
        `damaged` ones, has a row; or when that has not come about in time, and then the books differ."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if (
                not any(upstream.open for upstream in self._upstreams)
                and await self._idle()
                and self._unbooked() <= set(damaged)
            ):
                return
            await asyncio.sleep(0.1)

    async def _idle(self) -> bool:
        for gateway in self._gateways:
            if not gateway.running:
                continue
            try:
                samples = await gateway.samples()
            except httpx.HTTPError:
                return False
            if any(value for name, _, value in samples if name in ("aidock_inflight_requests", "aidock_journal_depth")):
                return False
        return True

    def _unbooked(self) -> set[str]:
        return self._billed().keys() - {row["request_id"] for row in self.gateway.rows()}

    def _billed(self) -> defaultdict[str, list[Bill]]:
        """The bills of all upstreams by request id."""
        billed: defaultdict[str, list[Bill]] = defaultdict(list)
        for upstream in self._upstreams:
            for request_id, bills in list(upstream.book.items()):
                billed[request_id] += bills
        return billed

    def _compare_calls(self, finding: Finding, rows: Sequence[Row]) -> Iterable[str]:
        """What clients saw against the ledger: who has a whole answer is charged for it, once, as the upstream said."""
        by_request = _by_id(rows, _request)
        bills: defaultdict[str, list[Bill]] = defaultdict(list)
        for request_id, billed in self._billed().items():
            bills[_request(request_id)] += billed
        for seen in self.seen:
            if not seen.whole:
                continue
            booked = by_request[seen.request_id]
            if not any(row["kind"] == "charge" for row in booked):
                finding.lost += 1
                yield f"{seen.request_id}: answered, and booked as {[row['kind'] for row in booked] or 'nothing'}"
                continue
            told = _told(bills[seen.request_id])
            if told is not None and (_used(booked) != told or seen.usage != told):
                yield f"{seen.request_id}: billed {told}, the client saw {seen.usage}, the ledger has {_used(booked)}"

    def _compare_bills(self, finding: Finding, rows: Sequence[Row]) -> Iterable[str]:
        """What the upstream billed against the ledger: each call asked once and booked once."""
        by_id = _by_id(rows)
        for request_id, bills in self._billed().items():
            if len(bills) > 1:
                finding.duplicate += 1
                yield f"{request_id}: the upstream was asked {len(bills)} times"
            if not by_id[request_id]:
                finding.lost += 1
                yield f"{request_id}: billed by the upstream, and nowhere in the ledger"
        ends = Counter(row["request_id"] for row in rows if row["kind"] in _ENDS)
        for request_id, count in ends.items():
            if count > 1:
                finding.duplicate += 1
                yield f"{request_id}: ended {count} times in the ledger"
        asked = Counter((bill.nonce, number) for number, each in enumerate(self._upstreams) for bill in each.bills)
        yield from (f"{nonce}: one request, {count} calls" for (nonce, _), count in asked.items() if count > 1)

    async def _compare_counters(self, finding: Finding, within_s: float, dead_hold: int) -> list[str]:
        """Each limit of each caller against the sum of its rows, worked out here. Counters follow the ledger with a
        delay, so they are asked again while they differ."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                off, over, leaked = await self._off()
            except AccountingUnavailable:  # they are being counted up
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.25)
                continue
            allowed = 0 < leaked <= dead_hold
            if not off or allowed or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.25)
        finding.overspend = sum(over.values())
        finding.leaked = leaked
        said = [f"{limit}: overspent by {amount}" for limit, amount in over.items()]
        if off and not allowed:
            finding.drift = sum(abs(amount) for amount in off.values())
            said += [f"{limit}: the counter is off by {amount}" for limit, amount in off.items()]
        return said

    async def _off(self) -> tuple[dict[str, int], dict[str, int], int]:
        """By how much counters differ from the ledger, by how much limits that deny were overspent, and how many
        holds would explain all of the difference (0: no number does)."""
        off: dict[str, int] = {}
        over: dict[str, int] = {}
        held = [0]
        explained = True
        for caller in self._callers:
            limits = await self.gateway.limits_of(caller.key)
            rows = self.gateway.rows()
            for limit in limits:
                unit = 1_000_000 if limit["metric"] == "cost" else 1
                name = f"{limit['scope']} {limit['subject']} {limit['metric']} per {limit['window']}"
                settled = _settled(rows, limit)
                difference = round(limit["used"] * unit) - settled
                if difference:
                    off[name] = difference
                    explained = explained and difference > 0
                    held.append(difference if limit["metric"] == "requests" else 1)
                if limit["action"] == "deny" and settled > round(limit["limit"] * unit):
                    over[name] = settled - round(limit["limit"] * unit)
        return off, over, max(held) if explained else 0


def _request(request_id: str) -> str:
    """The request that a call belongs to: calls at other models than the first have a number behind its id."""
    return request_id[:_ID]


def _by_id(rows: Iterable[Row], of: Callable[[str], str] = str) -> defaultdict[str, list[Row]]:
    by_id: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[of(row["request_id"])].append(row)
    return by_id


def _used(rows: Iterable[Row]) -> tuple[int, int]:
    rows = list(rows)
    return sum(row["prompt_tokens"] or 0 for row in rows), sum(row["completion_tokens"] or 0 for row in rows)


def _told(bills: Sequence[Bill]) -> tuple[int, int] | None:
    """What the upstream that answered says that it was; not known where several may have, or one was asked twice."""
    if len(bills) == 1:
        return bills[0].usage
    answers = [bill for bill in bills if bill.whole and bill.plan.status == 200]
    return answers[0].usage if len(answers) == 1 else None


def _settled(rows: Iterable[Row], limit: Mapping[str, Any]) -> int:
    """What the ledger says that a limit's counter has to say."""
    starts_at = _window_start(limit["window"])
    mine = [row for row in rows if row["created_at"] >= starts_at and _binds(limit, row)]
    match limit["metric"]:
        case "requests":
            return sum(row["kind"] in ("charge", "orphan") for row in mine)
        case "tokens":
            return sum(_used(mine))
        case "cost":
            return sum(row["cost_microusd"] for row in mine)
    return 0


def _binds(limit: Mapping[str, Any], row: Row) -> bool:
    column = _SCOPES.get(limit["scope"])
    return column is None or row[column] == limit["subject"]


def _window_start(window: str) -> float:
    now = datetime.now(UTC)
    match window:
        case "hour":
            return now.replace(minute=0, second=0, microsecond=0).timestamp()
        case "day":
            return now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        case "month":
            return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    return 0.0


def _note(finding: Finding) -> None:
    if path := os.environ.get(TABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")
