"""`aidock reconcile` as a person runs it, without a gateway beside it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import Limit
from gateway.core.money import Price
from gateway.ledger.delivery import PoisonRow
from gateway.ledger.journal import FileJournal, open_journal
from gateway.ledger.quarantine import Quarantine
from gateway.ledger.recovery import Adopter
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.cli.command import Result, Shell
from tests.ledger.support import ListSink, abandon, intent, outcome, serve

UTC = ZoneInfo("UTC")
PRICE = Price(1_000_000, 1_000_000, None, "2026-01")
COST = 12 + 34
NOON = 1_790_078_400.0 + 12 * 3600
CHECKS = ["counters", "calls", "totals", "days", "prices", "journals", "quarantine"]


def reconcile(shell: Shell, *words: str) -> Result:
    result = shell.aidock("reconcile", "--wait", "0", *words)
    assert not result.traceback
    return result


def differences(result: Result) -> dict[str, int]:
    return {check["check"]: check["differences"] for check in result.json["checks"] if check["differences"]}


def charge(request_id: str, **changes: Any) -> Any:
    return outcome(request_id, **{"created_at": NOON, "cost_microusd": COST, **changes})


@pytest.fixture
def books(shell: Shell) -> Shell:
    """Ten calls of one day and one of the next."""

    async def add() -> None:
        database = Database.open(f"sqlite:///{shell.data}/aidock.db", shell.data)
        async with database.write() as session:
            await ledger.remember_prices(session, [PRICE], NOON)
            rows = [*(charge(f"r{n}") for n in range(10)), charge("later", created_at=NOON + 86_400)]
            await ledger.insert_rows(session, rows, UTC)
        await database.close()

    asyncio.run(add())
    return shell


def sql(shell: Shell, statement: str) -> None:
    with closing(sqlite3.connect(shell.data / "aidock.db")) as database, database:
        database.execute(statement)


def rows(shell: Shell) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(shell.data / "aidock.db")) as database:
        return set(database.execute("SELECT request_id, kind FROM ledger"))


def died(shell: Shell, *, calls: int = 3, under_way: int = 0, delivered: bool = False) -> FileJournal:
    """A process that noted calls of its own and was killed."""

    async def live() -> FileJournal:
        journal = open_journal(shell.data / "journal")
        for n in range(calls):
            journal.intent(intent(f"dead{n}", created_at=NOON))
            journal.outcome(charge(f"dead{n}"))
        for n in range(under_way):
            journal.intent(intent(f"open{n}", created_at=NOON))
        if delivered:
            journal.acknowledge(journal.end, calls)
        await abandon(journal)
        return journal

    return asyncio.run(live())


def test_books_that_agree(books: Shell) -> None:
    result = reconcile(books)
    assert (result.code, "The books agree." in result.err) == (0, True)
    lines = result.out.splitlines()
    assert lines[0].split() == ["CHECK", "COMPARED", "DIFFERENCES"]
    assert [line.split()[-1] for line in lines[1:]] == ["0"] * 7
    told = reconcile(books, "--json").json
    assert (told["equal"], told["differences"], told["mended"]) == (True, 0, [])
    assert [check["check"] for check in told["checks"]] == CHECKS
    assert {check["check"]: check["compared"] for check in told["checks"]}["prices"] == 11


def test_an_empty_installation_agrees(shell: Shell) -> None:
    assert reconcile(shell).code == 0


def test_a_difference_is_told_with_what_to_do_about_it(books: Shell) -> None:
    sql(books, "UPDATE ledger SET cost_microusd = 99 WHERE request_id = 'r3'")
    result = reconcile(books)
    assert result.code == 1
    assert (
        f"the call r3 costs {COST} micro-dollars by price version 2026-01, and its rows say 99. What to do:"
        in result.out
    )
    assert "The books do not agree" in result.err
    found = reconcile(books, "--json")
    assert (found.code, found.json["equal"]) == (1, False)
    assert set(differences(found)) == {"totals", "days", "prices"}
    (price,) = next(check for check in found.json["checks"] if check["check"] == "prices")["first"]
    assert set(price) == {"subject", "says", "remedy"}


def test_sums_are_mended_and_rows_never(books: Shell) -> None:
    sql(books, "UPDATE usage_daily SET requests = requests + 5")
    result = reconcile(books, "--fix", "--json")
    assert result.code == 0
    assert "were made anew from its rows" in result.json["mended"][0]
    assert reconcile(books).code == 0
    sql(books, "UPDATE ledger SET cost_microusd = 99 WHERE request_id = 'r3'")
    result = reconcile(books, "--fix", "--json")
    assert (result.code, set(differences(result))) == (1, {"prices"})
    with closing(sqlite3.connect(books.data / "aidock.db")) as database:
        assert database.execute("SELECT cost_microusd FROM ledger WHERE request_id = 'r3'").fetchone() == (99,)
    assert reconcile(books, "--fix").code == 1


def test_only_the_days_that_were_asked_for_are_checked(books: Shell) -> None:
    sql(books, "UPDATE ledger SET cost_microusd = 99 WHERE request_id = 'later'")
    first = time.strftime("%Y-%m-%d", time.gmtime(NOON))
    second = time.strftime("%Y-%m-%d", time.gmtime(NOON + 86_400))
    assert reconcile(books, "--to", first).code == 0
    assert reconcile(books, "--from", second).code == 1
    assert reconcile(books, "--from", second, "--to", second, "--fix").code == 1
    assert reconcile(books, "--from", first, "--to", first).code == 0


def test_wrong_usage_is_told_from_books_that_differ(books: Shell) -> None:
    for words in (["--from", "yesterday"], ["--wait", "-1"], ["--from", "2026-02-01", "--to", "2026-01-01"], ["x"]):
        assert reconcile(books, *words).code == 2, words


def test_a_dead_journal_is_a_difference_until_it_is_adopted(books: Shell) -> None:
    died(books, calls=3, under_way=2)
    found = reconcile(books, "--json")
    assert differences(found) == {"calls": 1}
    assert "3 ends that the ledger does not have and 2 calls without one" in reconcile(books).out
    result = reconcile(books, "--fix", "--json")
    assert result.code == 0
    assert "1 journals of dead processes were adopted: 5 rows were new" in result.json["mended"][0]
    assert {(f"dead{n}", "charge") for n in range(3)} | {(f"open{n}", "orphan") for n in range(2)} <= rows(books)
    assert list((books.data / "journal").iterdir()) == []


def test_a_row_that_was_delivered_and_is_gone_is_missed(books: Shell) -> None:
    died(books, calls=3, delivered=True)
    result = reconcile(books, "--json")
    assert differences(result) == {"calls": 3}
    assert "was delivered to the ledger, which does not have it" in json.dumps(result.json)


def test_records_that_are_lost_for_good_are_a_difference_even_once_the_rest_is_mended(books: Shell) -> None:
    journal = died(books, calls=30)
    segment = journal.home.segment_path(1)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert differences(reconcile(books, "--json"))["journals"] == 2  # a record, and its bytes
    result = reconcile(books, "--fix", "--json")
    assert (result.code, differences(result)) == (1, {"journals": 1})
    assert f"1 records of journal {journal.path.name} are lost" in json.dumps(result.json)
    assert reconcile(books).code == 0
    assert (books.data / "journal" / "damage.jsonl").exists()


def test_damage_that_a_gateway_has_met_is_told_until_it_is_acknowledged(books: Shell) -> None:
    journal = died(books, calls=30)
    segment = journal.home.segment_path(1)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    asyncio.run(Adopter(books.data / "journal", ListSink()).adopt())  # as a gateway does, whoever reconciles
    for _ in range(2):
        result = reconcile(books, "--json")
        assert differences(result) == {"journals": 1}
        assert "1 records of journal" in json.dumps(result.json)
    result = reconcile(books, "--fix", "--json")
    assert (result.code, differences(result)) == (1, {"journals": 1}), "told once more, to whoever acknowledges it"
    assert reconcile(books).code == 0


def test_rows_in_quarantine_are_listed_and_offered_again(books: Shell) -> None:
    (books.data / "journal").mkdir()
    quarantine = Quarantine(books.data / "journal" / "quarantine.jsonl")
    quarantine.add(charge("aside"), PoisonRow("the disk of the database was odd"))
    quarantine.add(charge("hopeless", status=2**70), PoisonRow("too large"))
    found = reconcile(books)
    assert (found.code, found.out.count("is in quarantine")) == (1, 2)
    assert "the disk of the database was odd" in found.out
    reconcile(books, "--fix")
    assert ("aside", "charge") in rows(books)


async def test_the_calls_of_a_living_process_are_no_difference(books: Shell) -> None:
    journal = open_journal(books.data / "journal")
    serve(journal, 3)
    journal.intent(intent("open"))
    result = await asyncio.to_thread(reconcile, books, "--fix")
    assert result.code == 0
    assert "are under way" in result.err
    assert "3 rows of journal" in result.err
    assert len(rows(books)) == 11
    await journal.close()


def test_limits_are_noted_where_nobody_counts(books: Shell) -> None:
    books.ok("departments", "create", "research")
    books.ok("quotas", "set", "department", "research", "tokens", "100", "month")
    result = reconcile(books)
    assert (result.code, "No gateway counts now" in result.err) == (0, True)


def test_only_limits_that_a_policy_claims_are_compared() -> None:
    from gateway import plugins
    from gateway.cli._reconciliation import claimed_limits
    from gateway.settings.compile import compile_document
    from gateway.settings.load import load

    stored = [
        Limit("department", "research", "tokens", "month", 5),
        Limit("user", "ada@example.com", "requests", "minute", 5),
        Limit("key", "k1", "cost", "day", 5),
        Limit("model", "demo", "requests", "hour", 5),
        Limit("global", "", "parallel", "none", 5),
    ]
    only_rates = {"AIDOCK_POLICIES": "[rate_limit, concurrency]"}
    for environ, expected in (({}, stored[:4]), (only_rates, stored[1:2])):
        document = load(None, environ, {})
        snapshot = compile_document(
            document, version=1, known_policies=plugins.names("policies"), known_dialects={"demo"}
        )
        assert set(claimed_limits(snapshot, stored)) == set(expected)


def test_counters_that_cannot_be_reached_keep_no_other_check_from_being_done(books: Shell) -> None:
    away = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    result = books.aidock("reconcile", "--json", env=away)
    assert (result.code, differences(result), result.traceback) == (1, {"counters": 1}, False)
    assert [check["check"] for check in result.json["checks"]] == CHECKS
    assert "this check cannot be done: " in result.json["checks"][0]["first"][0]["says"]
    sql(books, "UPDATE usage_daily SET requests = requests + 5")
    found = books.aidock("reconcile", "--json", env=away)
    assert differences(found).keys() == {"counters", "totals", "days"}
    mended = books.aidock("reconcile", "--fix", "--json", env=away)
    assert (mended.code, differences(mended)) == (1, {"counters": 1}), "what does not need the counters is mended"
    assert len(mended.json["mended"]) == 2
    assert reconcile(books).code == 0
