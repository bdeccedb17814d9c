"""Comparing the books: what two of them say of the same thing, and whether that is a difference.

Nothing here reads anything: the rows come from `gateway.storage.audit`, journals from `gateway.ledger.inspection`,
counters from whoever has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from gateway.core.limits import Count, Limit
from gateway.core.money import FREE, MAX_AMOUNT
from gateway.ledger.damage import Damaged
from gateway.ledger.inspection import Inspection
from gateway.ledger.quarantine import Quarantined
from gateway.storage.audit import Group, Priced, Totals
from gateway.storage.daily import KEYS, SUMS

SHOWN = 20
"""Differences that a check tells in words; the others are counted."""

_LOOK = (
    "look at the disk; a gateway that runs, or --fix, keeps what is left of them in damage.jsonl beside the journals; "
    "what is whole and not understood may be a newer release's"
)

Verdict = Literal["equal", "moving", "drift"]


class Difference(NamedTuple):
    """Something that does not agree: what it is about, what is wrong in a sentence, and what to do about it."""

    subject: str
    says: str
    remedy: str


@dataclass(slots=True)
class Check:
    """One comparison of the books. `checked` are the things that were compared, `differences` how many do not agree;
    `first` are some of those, `notes` what is worth knowing and is no difference."""

    name: str
    title: str
    checked: int = 0
    differences: int = 0
    first: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, subject: str, says: str, remedy: str) -> None:
        self.differences += 1
        if len(self.first) < SHOWN:
            self.first.append(Difference(subject, says, remedy))


class Reading(NamedTuple):
    """A counter and, read after it, the sum of its ledger rows. `running` calls were under way before and after, the
    more of the two; None where that is not known."""

    counter: Count
    ledger: int
    running: int | None = None

    @property
    def equal(self) -> bool:
        return self.counter.based and self.counter.settled == self.ledger

    @property
    def held_by_nobody(self) -> bool:
        return bool(self.counter.reserved) and self.running == 0


def judge(readings: Sequence[Reading]) -> Verdict:
    """What readings of one counter, in the order they were taken, say of it.

    A call settles before its row lands, so the ledger of a busy gateway is always a little behind. It is the same
    account all the same if the ledger has since reached what was settled then, and is not ahead of what was next.
    """
    newest = readings[-1]
    if newest.equal:
        return "equal"
    turn = [each for each in readings if each.counter.starts_at == newest.counter.starts_at]
    if len(turn) == 1 < len(readings):
        return "moving"  # the window has just turned
    follows = any(
        any(earlier.counter.settled <= each.ledger for earlier in turn[: index + 1])
        and each.ledger <= following.counter.settled
        for index, (each, following) in enumerate(pairwise(turn))
    )
    return "moving" if follows and newest.counter.based else "drift"


def add_counter(check: Check, readings: Sequence[Reading]) -> None:
    """Enter what was read of one limit."""
    newest = readings[-1]
    counter, name = newest.counter, name_of(newest.counter.limit)
    check.checked += 1
    match judge(readings):
        case "drift" if not counter.based:
            check.add(
                name,
                f"the counter of {name} has not been counted up from the ledger, which says {newest.ledger}",
                "see /readyz?verbose of a gateway that serves; --fix counts it anew",
            )
        case "drift":
            gap = counter.settled - newest.ledger
            check.add(
                name,
                f"the counter of {name} says {counter.settled} and the ledger {newest.ledger}: {abs(gap)} too "
                f"{'many' if gap > 0 else 'few'}",
                "--fix counts it anew from the ledger",
            )
        case "moving":
            check.notes.append(
                f"{name} is in motion: {counter.settled} counted and {newest.ledger} in the ledger, which follows. "
                "A longer --wait, or a quieter moment, tells more."
            )
        case "equal":
            pass
    if counter.reserved < 0 or (len(readings) > 1 and all(each.held_by_nobody for each in readings[-2:])):
        check.add(
            name,
            f"{counter.reserved} of {name} is held although no call runs",
            "a hold that nobody renews lapses within a minute; look again then",
        )
    elif counter.reserved and newest.running is None:
        check.notes.append(f"{counter.reserved} of {name} is held: by running calls, or by some that have just died.")


def add_journal(
    calls: Check,
    frames: Check,
    found: Inspection,
    ended: Collection[str],
    adjusted: Collection[tuple[str, int]],
    noted: Collection[int] = (),
) -> None:
    """Enter what a journal holds: its `calls`, and the state of its `frames`. `ended` are those of its delivered
    calls, and `adjusted` those of its delivered adjustments, that the ledger or the quarantine has; of the `noted`
    records it is known that they are lost."""
    calls.checked += len(found.open) + found.waiting + len(found.delivered) + len(found.adjusted)
    frames.checked += found.records
    if found.alive:
        if found.open:
            calls.notes.append(f"{len(found.open)} calls of the process with journal {found.name} are under way.")
        if found.waiting:
            calls.notes.append(f"{found.waiting} rows of journal {found.name} are on their way to the ledger.")
    elif found.open or found.waiting:
        calls.add(
            found.name,
            f"the journal {found.name} of a dead process waits to be adopted: {found.waiting} ends that the ledger "
            f"does not have and {len(found.open)} calls without one",
            "a running gateway adopts it within 10 seconds; --fix does so now",
        )
    for request_id in sorted(found.delivered - set(ended)):
        calls.add(
            request_id,
            f"the call {request_id} was delivered to the ledger, which does not have it",
            f"the row was taken out of the database; its record is still in journal {found.name}: keep a copy",
        )
    for request_id, number in sorted(found.adjusted - set(adjusted)):
        calls.add(
            request_id,
            f"adjustment {number} of call {request_id} was delivered to the ledger, which does not have it",
            f"the row was taken out of the database; its record is still in journal {found.name}: keep a copy",
        )
    _add_damage(frames, found, noted)


def _add_damage(frames: Check, found: Inspection, noted: Collection[int]) -> None:
    if found.trouble:
        frames.add(found.name, f"the journal {found.name} cannot be read: {found.trouble}", "look at the disk")
    for records, words in ((found.missing, "missing from"), (found.unreadable, "not understood in")):
        if new := records - set(noted):
            frames.add(found.name, f"{len(new)} records are {words} journal {found.name}", _LOOK)
    if found.damaged_bytes and (found.missing - set(noted) or not found.missing):
        frames.add(found.name, f"{found.damaged_bytes} bytes of journal {found.name} are damaged", _LOOK)


def add_damage(frames: Check, entries: Iterable[Damaged]) -> None:
    """Enter what journals could not give back, as far as nobody has acknowledged it."""
    for entry in entries:
        if entry.acknowledged_at is None:
            frames.add(*lost(entry))


def lost(entry: Damaged) -> Difference:
    """How to tell of records that are lost for good."""
    return Difference(
        entry.journal,
        f"{entry.count} records of journal {entry.journal or 'unknown'} are lost: where a call's end was among them "
        "its row is an orphan, where its beginning was too it has none",
        "look at the disk; the log and the upstream's invoice may tell which calls; --fix acknowledges it, what is "
        "left of the records stays in damage.jsonl beside the journals",
    )


def add_quarantine(check: Check, entries: Iterable[Quarantined]) -> None:
    """Enter the rows that the ledger would not take."""
    for entry in entries:
        check.checked += 1
        subject = "unreadable" if entry.row is None else entry.row.request_id
        check.add(
            subject,
            f"a row of call {subject} is in quarantine: {entry.reason}",
            "--fix offers it to the ledger again; the file is quarantine.jsonl beside the journals",
        )


def add_day(check: Check, day: str, rows: Mapping[Group, Totals], daily: Mapping[Group, Totals]) -> bool:
    """Enter a day's groups: what its rows add up to, and what the daily sums say. Whether all of them agree."""
    agree = True
    for group in sorted(rows.keys() | daily.keys()):
        check.checked += 1
        ours, theirs = rows.get(group), daily.get(group)
        if ours != theirs:
            agree = False
            check.add(
                f"{day} {' '.join(group)}",
                f"on {day}, for {_described(group)}, {_differing(ours, theirs)}",
                "find out which row was changed, then --fix sums the day anew from its rows",
            )
    return agree


def add_total(check: Check, by: str, rows: Totals, daily: Totals) -> None:
    """Enter the whole, added up by one key."""
    check.checked += 1
    if rows != daily:
        check.add(
            by,
            f"added up by {by}, {_differing(rows, daily)}",
            "the check of days says which; --fix sums those anew from their rows",
        )


def _described(group: Group) -> str:
    return ", ".join(f"{key.removesuffix('_id')} {value}" for key, value in zip(KEYS, group, strict=True))


def _differing(rows: Totals | None, daily: Totals | None) -> str:
    if rows is None:
        return "there are sums and no rows"
    if daily is None:
        return "there are rows and no sums"
    pairs = zip(SUMS, rows, daily, strict=True)
    return "; ".join(
        f"the rows have {ours} {name}, the sums {theirs}" for name, ours, theirs in pairs if ours != theirs
    )


def add_price(check: Check, call: Priced) -> None:
    """Enter a call whose cost is in doubt; most turn out to be right."""
    ends = [kind for kind in call.kinds if kind != "adjust"]
    if not ends:
        check.add(
            call.request_id,
            f"the call {call.request_id} has adjustments and no end",
            "a row was taken out of the database: restore it from a backup",
        )
        return
    used = call.prompt or call.completion or call.units or "charge" in call.kinds
    if call.price is None and used:
        check.add(
            call.request_id,
            f"the call {call.request_id} names price version {call.version}, which nobody knows",
            "its cost cannot be checked; the row was changed, or the table prices_seen was",
        )
        return
    price = call.price or FREE
    expected = min(price.cost(call.prompt, call.completion, call.cached, call.units, call.unit), MAX_AMOUNT - 1)
    if call.cost != expected:
        check.add(
            call.request_id,
            f"the call {call.request_id} costs {expected} micro-dollars by price version {call.version}, and its rows "
            f"say {call.cost}",
            "aidock prices reprice shows what it would be and, if you want, adds the difference",
        )


def name_of(limit: Limit) -> str:
    """A limit's counter in a few words."""
    return f"{limit.metric} of {limit.label} per {limit.window}"
