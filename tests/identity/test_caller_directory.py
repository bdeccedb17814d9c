from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from sqlalchemy import event

from gateway.core.errors import GatewayError
from gateway.core.limits import Limit
from gateway.core.principal import Principal
from gateway.identity import directory as directory_module
from gateway.identity.directory import Directory
from gateway.identity.keys import new_key, parse
from gateway.identity.pepper import Pepper, PepperRefused
from gateway.storage import api_keys, departments, quotas, users
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable
from tests.support.database import PEPPER, database_url, issue_key, ready_database


@pytest.fixture
async def database(tmp_path):
    database = await ready_database(tmp_path)
    yield database
    await database.close()


@pytest.fixture
async def directory(database):
    directory = Directory(database, PEPPER, tuple)
    await directory.refresh()
    yield directory
    await directory.close()


@pytest.fixture
def statements(database):
    """The SQL that readers were asked for, as it happens."""
    seen: list[str] = []
    event.listen(database._readers.sync_engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    return seen


def asked_for_keys(statements: list[str]) -> int:
    return sum("api_keys" in statement for statement in statements)


async def refusal(directory: Directory, credential: bytes | str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await directory.find(credential)
    return caught.value


def public_id(key: str) -> str:
    found = parse(key.encode())
    assert found is not None
    return found


async def test_a_key_is_looked_up_once_and_then_remembered(directory, database, statements):
    key = await issue_key(database, models=["m1"])
    assert directory.recall(key) is None
    principal = await directory.find(key.encode())
    assert principal == Principal(public_id(key), "ada@example.com", "research", frozenset({"m1"}), None)
    assert directory.recall(key) is directory.recall(key.encode()) is principal
    assert await directory.find(key) is principal
    assert asked_for_keys(statements) == 1


async def test_a_burst_of_calls_with_one_key_is_one_question(directory, database, statements):
    key = await issue_key(database)
    found = await asyncio.gather(*(directory.find(key) for _ in range(50)))
    assert len({id(principal) for principal in found}) == 1
    assert asked_for_keys(statements) == 1


async def test_a_caller_who_leaves_does_not_take_the_others_along(directory, database):
    key = await issue_key(database)
    first, second = asyncio.create_task(directory.find(key)), asyncio.create_task(directory.find(key))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user == "ada@example.com"


INJECTIONS = [
    f"{prefix}{attack}"
    for prefix in ("", "sk-aidock-")
    for attack in (
        "' OR '1'='1", "' OR 1=1 --", "'; DROP TABLE api_keys; --", '" OR ""="', "') OR ('1'='1", "1; SELECT 1",
        "' UNION SELECT * FROM users --", "admin'--", "' AND SLEEP(5) --", "%' OR '%'='", "\\'; --", "' OR 'x' LIKE '%",
        "/**/OR/**/1=1", "%27%20OR%201=1", "0x27204f52", "'||(SELECT 1)||'", "${jndi:ldap://x}", "\x00' OR 1=1",
        "🔑' OR 1=1", "*" * 61,
    )
]  # fmt: skip


async def test_sql_in_a_key_is_answered_like_any_other_junk_without_any_sql(directory, statements):
    statements.clear()
    assert len(INJECTIONS) == 40
    answers = [await refusal(directory, attack) for attack in INJECTIONS]
    assert {(answer.status, answer.code) for answer in answers} == {(401, "invalid_api_key")}
    assert len({answer.message for answer in answers}) == 1
    assert all(directory.recall(attack) is None for attack in INJECTIONS)
    assert statements == []


async def test_odd_credentials_are_401_and_are_not_repeated(directory, database):
    key = await issue_key(database)
    for odd in ("", " ", "\t", f" {key}", f"{key} ", key.upper(), "x" * 10_000, "\ud800", b"\xff\xfe", key[:-1]):
        error = await refusal(directory, odd)
        assert error.status == 401
        assert not odd.strip() or str(odd) not in error.message
        assert directory.recall(odd) is None


async def test_an_unknown_key_is_asked_for_once_and_named_by_its_public_id_only(directory, database, statements):
    stranger = new_key()
    for _ in range(5):
        error = await refusal(directory, stranger.text.reveal())
    assert (error.status, error.headers["x-should-retry"]) == (401, "false")
    assert f"sk-aidock-{stranger.public_id}…" in error.message
    assert stranger.text.reveal()[22:] not in error.message
    assert asked_for_keys(statements) == 1


async def test_memory_of_the_unknown_and_of_callers_is_bounded(directory, database, monkeypatch):
    monkeypatch.setattr(directory_module, "MAX_UNKNOWN", 5)
    monkeypatch.setattr(directory_module, "MAX_CALLERS", 3)
    for _ in range(12):
        await refusal(directory, new_key().text.reveal())
    assert len(directory._unknown) == 5
    keys = [await issue_key(database) for _ in range(4)]
    for key in keys[:3]:
        await directory.find(key)
    assert directory.recall(keys[0])
    await directory.find(keys[3])
    assert [directory.recall(key) is not None for key in keys] == [True, False, True, True]


async def test_an_expired_key_stops_by_the_clock_alone(directory, database):
    key = await issue_key(database, expires_at=time.time() + 0.5)
    assert await directory.find(key)
    await asyncio.sleep(0.6)
    assert directory.recall(key) is None
    assert "expired on" in (await refusal(directory, key)).message


SHUT_OUT = {
    "revoked": lambda session, key: api_keys.revoke(session, public_id(key)),
    "deactivated": lambda session, key: users.deactivate(session, "ada@example.com"),
    "archived": lambda session, key: departments.update(session, "research", archived=True),
}


@pytest.mark.parametrize("why", SHUT_OUT)
async def test_a_key_that_was_shut_out_is_401_and_says_why(directory, database, why):
    key = await issue_key(database)
    await directory.find(key)
    async with database.write() as session:
        await SHUT_OUT[why](session, key)
    await directory.refresh()
    assert directory.recall(key) is None
    error = await refusal(directory, key)
    assert error.status == 401
    assert why in error.message


async def test_a_change_keeps_the_callers_known_without_asking_for_each(directory, database, statements):
    keys = [await issue_key(database, user=f"user{number}@example.com") for number in range(20)]
    for key in keys:
        await directory.find(key)
    async with database.write() as session:
        await departments.update(session, "research", new_name="science")
    statements.clear()
    await directory.refresh()
    assert {directory.recall(key).department for key in keys} == {"science"}
    assert asked_for_keys(statements) == 1
    statements.clear()
    await directory.refresh()
    assert len([s for s in statements if "FROM" in s]) == 1


async def test_a_new_key_works_at_once_even_where_it_was_unknown_a_moment_ago(directory, database):
    key = await issue_key(database)
    async with database.write() as session:
        await users.deactivate(session, "ada@example.com")
    await refusal(directory, key)
    async with database.write() as session:
        await users.reactivate(session, "ada@example.com")
    await directory.refresh()
    assert (await directory.find(key)).user == "ada@example.com"


async def test_an_answer_from_before_a_change_is_not_kept(directory, database):
    key = await issue_key(database)
    directory._revision = 10_000  # this process has already seen a later state
    assert await directory.find(key)
    assert directory.recall(key) is None


def break_database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "aidock.db")) as connection, connection:
        connection.execute("ALTER TABLE revisions RENAME TO gone")


def mend_database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "aidock.db")) as connection, connection:
        connection.execute("ALTER TABLE gone RENAME TO revisions")


async def test_while_the_database_is_down_the_known_go_on_and_the_others_get_503(directory, database, tmp_path, caplog):
    known, other = await issue_key(database), await issue_key(database)
    await directory.find(known)
    poller = asyncio.create_task(directory.run(0.02))
    break_database(tmp_path)
    await until(lambda: not directory.healthy)
    await asyncio.sleep(0.2)
    assert directory.recall(known) is not None
    error = await refusal(directory, other)
    assert (error.status, error.code) == (503, "accounting_unavailable")
    assert (await refusal(directory, "junk")).status == 401
    mend_database(tmp_path)
    await until(lambda: directory.healthy)
    assert (await directory.find(other)).user == "ada@example.com"
    assert [r.levelname for r in caplog.records if r.name == "aidock.identity"].count("ERROR") == 1
    poller.cancel()


async def until(happened, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not happened():  # noqa: ASYNC110  a plain attribute changes, there is nothing to wait on
            await asyncio.sleep(0.01)


REVOKE = """
import asyncio, sys
from pathlib import Path
from gateway.storage import api_keys
from gateway.storage.engine import Database

async def main(url, folder, key):
    database = Database.open(url, Path(folder))
    async with database.write() as session:
        await api_keys.revoke(session, key)
    await database.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_key_revoked_by_another_process_stops_within_five_seconds_while_calls_go_on(
    directory, database, tmp_path
):
    key, spared = await issue_key(database), await issue_key(database)
    poller = asyncio.create_task(directory.run())
    served = 0

    async def call() -> None:
        nonlocal served
        while True:
            assert (directory.recall(spared) or await directory.find(spared)).user == "ada@example.com"
            assert directory.recall(key) or await directory.find(key)
            served += 1
            await asyncio.sleep(0.001)

    callers = [asyncio.create_task(call()) for _ in range(5)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REVOKE, database_url(tmp_path), str(tmp_path), public_id(key)
    )
    assert await process.wait() == 0
    done, waiting = await asyncio.wait(callers, timeout=5)
    for task in (poller, *waiting):
        task.cancel()
    assert not waiting
    assert {task.exception().code for task in done} == {"invalid_api_key"}
    assert served > 100
    assert directory.recall(spared)


async def test_another_pepper_is_refused_before_anything_is_served(directory, database):
    with pytest.raises(PepperRefused):
        await Directory(database, Pepper(b"another"), tuple).refresh()


ADA = Principal("AbCdEf012345", "ada@example.com", "research")


async def test_limits_of_the_file_and_by_hand_bind_by_subject_and_are_sorted(database):
    file = (
        Limit("global", "", "requests", "minute", 60),
        Limit("department", "sales", "tokens", "month", 1),
        Limit("model", "m1", "cost", "day", 5),
        Limit("user", "ada@example.com", "parallel", "none", 2),
    )
    directory = Directory(database, PEPPER, lambda: file)
    await issue_key(database)
    async with database.write() as session:
        await quotas.put(session, Limit("department", "research", "tokens", "month", 1_000, "warn"))
    await directory.refresh()
    found = directory.limits(ADA, "m1")
    assert found.rate == (file[0],)
    assert found.quota == (Limit("department", "research", "tokens", "month", 1_000, "warn"), file[2])
    assert found.parallel == (file[3],)
    assert directory.limits(ADA, "m1") is found
    assert directory.limits(ADA, "m2").quota == found.quota[:1]


async def test_limits_follow_a_new_file_and_a_change_by_hand(database):
    file: tuple[Limit, ...] = ()
    directory = Directory(database, PEPPER, lambda: file)
    await directory.refresh()
    assert directory.limits(ADA, "m1").rate == ()
    file = (Limit("global", "", "requests", "minute", 60),)
    assert directory.limits(ADA, "m1").rate == file
    async with database.write() as session:
        await quotas.put(session, Limit("model", "m1", "tokens", "day", 9))
    await directory.refresh()
    assert directory.limits(ADA, "m1").quota == (Limit("model", "m1", "tokens", "day", 9),)
    assert directory.limits(ADA, "m1").rate == file


@pytest.mark.parametrize(
    ("by_file", "by_hand", "stricter"),
    [
        (("deny", 10), ("deny", 5), ("deny", 5)),
        (("deny", 5), ("deny", 10), ("deny", 5)),
        (("warn", 5), ("deny", 10), ("deny", 10)),
    ],
)
async def test_of_two_limits_on_one_counter_the_stricter_stands_for_both(database, by_file, by_hand, stricter):
    def limit(action: str, amount: int) -> Limit:
        return Limit("global", "", "tokens", "day", amount, action)

    file = (limit(*by_file),)
    directory = Directory(database, PEPPER, lambda: file)
    async with database.write() as session:
        await quotas.put(session, limit(*by_hand))
    await directory.refresh()
    assert directory.limits(ADA, "m1").quota == (limit(*stricter),)


async def test_limits_bind_once_they_are_prepared_but_a_revocation_does_not_wait(directory, database):
    key = await issue_key(database)
    await directory.find(key)
    limit = Limit("global", "", "tokens", "day", 9)
    prepared: list[tuple[Limit, ...]] = []
    go_on = asyncio.Event()

    async def prepare(limits: tuple[Limit, ...]) -> None:
        await go_on.wait()
        assert directory.limits(ADA, "m1").quota == ()
        prepared.append(limits)

    directory.before_limits = prepare
    async with database.write() as session:
        await quotas.put(session, limit)
        await api_keys.revoke(session, public_id(key))
    refreshing = asyncio.create_task(directory.refresh())
    await until(lambda: directory.recall(key) is None)
    assert directory.limits(ADA, "m1").quota == ()
    go_on.set()
    await refreshing
    assert prepared == [(limit,)]
    assert directory.limits(ADA, "m1").quota == (limit,)


async def test_limits_whose_preparation_failed_are_tried_again(directory, database):
    limit = Limit("global", "", "tokens", "day", 9)
    tries = 0

    async def fail_once(_limits: tuple[Limit, ...]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailable("not now")

    directory.before_limits = fail_once
    async with database.write() as session:
        await quotas.put(session, limit)
    with pytest.raises(DatabaseUnavailable):
        await directory.refresh()
    assert directory.limits(ADA, "m1").quota == ()
    await directory.refresh()
    assert directory.limits(ADA, "m1").quota == (limit,)


async def test_two_databases_in_one_process_agree(directory, database, tmp_path):
    other = Database.open(database_url(tmp_path), tmp_path)
    elsewhere = Directory(other, PEPPER, tuple)
    await elsewhere.refresh()
    key = await issue_key(database)
    assert await elsewhere.find(key) == await directory.find(key)
    async with other.write() as session:
        await api_keys.revoke(session, public_id(key))
    await directory.refresh()
    assert (await refusal(directory, key)).status == 401
    await other.close()
