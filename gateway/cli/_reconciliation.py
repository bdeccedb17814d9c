"""The checks of `aidock reconcile`, and what `--fix` does about what they find."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gateway import plugins
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.endpoint import Inference
from gateway.core.limits import NOTHING, Count, Limit, Scope
from gateway.core.ports import StoreUnavailable
from gateway.core.principal import Principal
from gateway.identity.limits import LimitBook
from gateway.ledger import reconcile
from gateway.ledger.damage import Damaged, DamageFile
from gateway.ledger.delivery import offer_again
from gateway.ledger.directory import JournalFiles
from gateway.ledger.inspection import Inspection, inspect_all
from gateway.ledger.quarantine import FILE_NAME, Quarantine
from gateway.ledger.reconcile import Check, Reading
from gateway.ledger.recovery import Adopter
from gateway.ledger.table import LedgerTable
from gateway.local import Counters
from gateway.recount import REVISION
from gateway.settings.compile import Snapshot
from gateway.storage import audit, daily, ledger, revisions
from gateway.storage.audit import Period
from gateway.storage.daily import KEYS
from gateway.storage.engine import Database

_LOOK_S = 0.25
_CALLER: tuple[Scope, ...] = ("key", "user", "department")

Told = Callable[[str], None]


class Reconciliation:
    """One comparison of all the books. `told` hears what is being looked at, `wait_s` is how long counters that do
    not agree may take to."""

    def __init__(
        self,
        database: Database,
        counters: Counters,
        snapshot: Snapshot,
        limits: Sequence[Limit],
        period: Period,
        wait_s: float,
        told: Told,
    ) -> None:
        self._database = database
        self._counters = counters
        self._zone = snapshot.zone
        self._limits = limits
        self._period = period
        self._wait_s = wait_s
        self._told = told
        self._root = Path(snapshot.storage.data) / "journal"
        self._quarantine = Quarantine(self._root / FILE_NAME)
        self._wrong_days: list[str] = []
        self._damage = DamageFile(self._root)
        self._dead_journals = 0
        self._damaged: list[Inspection] = []

    async def checks(self) -> list[Check]:
        """Every check, in the order in which they are told."""
        calls, journals = await self._journals()
        rows = await self._rows()
        return [await self._counted(), calls, *rows, journals, await self._quarantined()]

    async def mend(self, checks: Iterable[Check]) -> tuple[list[str], list[reconcile.Difference]]:
        """Set right what can be, which are sums and deliveries, never a row: what was done, and what is lost for good,
        which is told this once. Raises `SinkUnavailable`."""
        wrong = {check.name for check in checks if check.differences}
        done: list[str] = []
        if self._dead_journals:
            await self._adopt(done)
        if "quarantine" in wrong:
            taken, left = await offer_again(self._quarantine, LedgerTable(self._database, self._zone))
            done += [f"{taken} rows went from quarantine to the ledger, {left} stay"] if taken else []
        for day in self._wrong_days:
            async with self._database.write() as session:
                await daily.rebuild_day(session, day, self._zone)
            done.append(f"the sums of {day} were made anew from its rows")
        if done or "counters" in wrong:
            async with self._database.write() as session:
                await revisions.bump(session, REVISION)  # gateways that cannot be asked from here count anew as well
            with contextlib.suppress(StoreUnavailable):  # the check that follows says so
                await self._counters.recount(self._limits)
                done.append("the counters were counted anew from the ledger")
        return done, [reconcile.lost(entry) for entry in await asyncio.to_thread(self._acknowledge)]

    async def _adopt(self, done: list[str]) -> None:
        adopter = Adopter(self._root, LedgerTable(self._database, self._zone))
        await adopter.adopt()
        found = adopter.recovered
        done.append(f"{found.journals} journals of dead processes were adopted: {adopter.rows} rows were new")

    def _acknowledge(self) -> list[Damaged]:
        """What is lost for good, and told now. The damage in living journals that nobody will read again is noted
        first."""
        for journal in self._damaged:
            if journal.replay is not None:
                self._damage.note(JournalFiles(self._root / journal.name), journal.replay)
        return self._damage.acknowledge()

    async def _counted(self) -> Check:
        check = Check("counters", "counters against ledger")
        try:
            await self._counters.running()  # without a limit nothing else would be asked
            await self._compare_counters(check)
        except StoreUnavailable as error:
            check.add(
                "counters",
                f"this check cannot be done: {str(error).rstrip('.')}",
                "see that the counter store and its gateways run, then check again; the other checks are done",
            )
        return check

    async def _compare_counters(self, check: Check) -> None:
        readings: dict[Limit, list[Reading]] = {limit: [] for limit in self._limits}
        pending = list(self._limits)
        deadline = time.monotonic() + self._wait_s
        while pending:
            self._told(f"{len(pending)} counters")
            for reading in await self._read_counters(pending):
                readings[reading.counter.limit].append(reading)
            pending = [limit for limit in pending if readings[limit] and _in_doubt(readings[limit][-1])]
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(_LOOK_S if pending else 0)
        for each in filter(None, readings.values()):
            reconcile.add_counter(check, each)
        if self._limits and not check.checked:
            check.notes.append("No gateway counts now; the next one to start counts up from the ledger.")

    async def _read_counters(self, limits: Sequence[Limit]) -> list[Reading]:
        before = await self._counters.running()
        counts = await self._counters.audit(limits)
        after = await self._counters.running()
        running = None if before is None or after is None else max(len(before), len(after))
        windows: defaultdict[tuple[Scope, float, float | None], list[Count]] = defaultdict(list)
        for count in counts:
            windows[count.limit.scope, count.starts_at, count.ends_at].append(count)
        readings = []
        async with self._database.read() as session:
            for (scope, starts_at, ends_at), those in windows.items():
                sums = await ledger.sums(session, scope, starts_at, ends_at, self._zone)
                for count in those:
                    used = sums.get(count.limit.subject, NOTHING).of(count.limit.metric)
                    readings.append(Reading(count, used, running))
        return readings

    async def _journals(self) -> tuple[Check, Check]:
        calls, frames = Check("calls", "intents against outcomes"), Check("journals", "journals without gaps")
        self._told("journals")
        found: list[Inspection] = await asyncio.to_thread(lambda: list(inspect_all(self._root)))
        self._dead_journals = sum(not each.alive for each in found)
        self._damaged = [each for each in found if each.alive and not each.whole]
        noted = await asyncio.to_thread(self._damage.noted)
        aside = [entry.row for entry in self._quarantine.entries() if entry.row is not None]
        for journal in found:
            async with self._database.read() as session:
                ended = await ledger.landed(session, journal.delivered)
                adjusted = await audit.adjustments(session, {request_id for request_id, _ in journal.adjusted})
            ended |= {row.request_id for row in aside}
            adjusted |= {(row.request_id, row.number) for row in aside}
            reconcile.add_journal(calls, frames, journal, ended, adjusted, noted.get(journal.name, ()))
        reconcile.add_damage(frames, await asyncio.to_thread(self._damage.entries))
        return calls, frames

    async def _rows(self) -> list[Check]:
        """The checks of the database, all of one moment of it."""
        async with self._database.read() as session:
            totals, days = Check("totals", "totals by every key"), Check("days", "daily sums against rows")
            self._told("totals")
            whole = await audit.row_total(session, self._period, self._zone)
            reconcile.add_total(totals, "day", whole, await audit.daily_total(session, "day", self._period))
            for key in KEYS:
                sums = await audit.daily_total(session, key, self._period)
                reconcile.add_total(totals, key.removesuffix("_id"), whole, sums)
            self._wrong_days = []
            for day in await audit.days(session, self._period, self._zone):
                self._told(day)
                rows = await audit.summed_rows(session, day, self._zone)
                if not reconcile.add_day(days, day, rows, await audit.daily_sums(session, day)):
                    self._wrong_days.append(day)
            prices = Check("prices", "usage times price against cost")
            self._told("prices")
            prices.checked = await audit.row_count(session, self._period, self._zone)
            async for call in audit.doubtful_costs(session, self._period, self._zone):
                reconcile.add_price(prices, call)
            async for call in audit.adjusted_costs(session, self._period, self._zone):
                reconcile.add_price(prices, call)
        return [totals, days, prices]

    async def _quarantined(self) -> Check:
        check = Check("quarantine", "rows in quarantine")
        reconcile.add_quarantine(check, await asyncio.to_thread(self._quarantine.entries))
        return check


def _in_doubt(reading: Reading) -> bool:
    return not reading.equal or reading.held_by_nobody


def claimed_limits(snapshot: Snapshot, stored: Sequence[Limit]) -> list[Limit]:
    """Those limits, of the file and set by hand, that a policy of the chain claims: only they are counted.

    The chain says so itself, to a question in the name of each limit's subject.
    """
    policies = [plugins.policy(entry.name, entry.settings) for entry in snapshot.policies]
    endpoint = next(each for each in plugins.endpoints() if isinstance(each, Inference) and each.caps)
    book = LimitBook(lambda: snapshot.limits)
    book.load(tuple(stored))
    default, route = next(iter(snapshot.routes.items()))
    claimed: dict[Limit, None] = {}
    for limit in (*snapshot.limits, *stored):
        key, user, department = (limit.subject if limit.scope == scope else "" for scope in _CALLER)
        principal = Principal(key, user, department)
        model = limit.subject if limit.scope == "model" else default
        binding = book.limits(principal, model)
        asked = Call("", endpoint, principal, [], Body(b"{}"), model, route, 0.0, 0.0, limits=binding)
        claimed.update((claim.limit, None) for policy in policies for claim in policy.claims(asked))
    return [limit for limit in claimed if limit.metric != "parallel"]
