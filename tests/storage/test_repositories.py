from __future__ import annotations

import time

import pytest

from gateway.core.limits import Limit
from gateway.core.money import MAX_AMOUNT
from gateway.core.secret import Secret
from gateway.identity import issuing
from gateway.identity.keys import new_key
from gateway.storage import api_keys, departments, quotas, revisions, users
from gateway.storage.errors import Conflict, Invalid, NotFound
from tests.support.database import PEPPER, issue_key


@pytest.fixture
async def session(database):
    async with database.write() as session:
        await departments.create(session, "research")
        await users.create(session, "Ada@Example.com", "research")
        yield session


async def a_key(session, **changes):
    return (await issuing.issue(session, PEPPER, "ada@example.com", **changes)).row


async def test_emails_are_one_whatever_their_case(session):
    assert (await users.find(session, " ADA@example.COM ")).email == "ada@example.com"
    with pytest.raises(Conflict, match="already"):
        await users.create(session, "ada@EXAMPLE.com", "research")


async def test_a_name_is_taken_once(session):
    with pytest.raises(Conflict, match="research"):
        await departments.create(session, " research ")
    await departments.create(session, "sales")
    with pytest.raises(Conflict, match="research"):
        await departments.update(session, "sales", new_name="research")


@pytest.mark.parametrize(
    ("look", "hint"),
    [
        (lambda s: departments.find(s, "reserch"), "research"),
        (lambda s: users.find(s, "ade@example.com"), "ada@example.com"),
        (lambda s: users.create(s, "bob@example.com", "reserch"), "research"),
        (lambda s: quotas.put(s, Limit("department", "reserch", "tokens", "month", 1)), "research"),
        (lambda s: quotas.put(s, Limit("user", "ade@example.com", "tokens", "month", 1)), "ada@example.com"),
    ],
)
async def test_an_unknown_name_is_answered_with_the_nearest(session, look, hint):
    with pytest.raises(NotFound, match=f"Did you mean '{hint}'"):
        await look(session)


async def test_an_unknown_key_is_answered_with_the_nearest(session):
    key = await a_key(session)
    typed = key.public_id[:-1] + "-"
    for look in (api_keys.find(session, typed), quotas.put(session, Limit("key", typed, "tokens", "day", 1))):
        with pytest.raises(NotFound, match=key.public_id):
            await look


@pytest.mark.parametrize(
    "email", ["", "ada", "@example.com", "ada@", "a b@example.com", "a@b@c", "a" * 250 + "@b.de", "\n@b"]
)
async def test_what_is_no_email_is_refused(session, email):
    with pytest.raises(Invalid):
        await users.create(session, email, "research")


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "new\nline", "nul\0"])
async def test_what_is_no_name_is_refused(session, name):
    with pytest.raises(Invalid):
        await departments.create(session, name)


async def test_a_department_with_users_stays(session):
    with pytest.raises(Conflict, match=r"1 user\(s\): ada@example.com"):
        await departments.delete(session, "research")
    await departments.create(session, "sales")
    await quotas.put(session, Limit("department", "research", "tokens", "month", 1))
    await users.update(session, "ada@example.com", department="sales")
    await departments.delete(session, "research")
    assert [d.name for d in await departments.every(session)] == ["sales"]
    assert await quotas.limits(session) == ()


async def test_an_archived_department_takes_no_one_new(session):
    await departments.update(session, "research", archived=True)
    with pytest.raises(Conflict, match="archived"):
        await users.create(session, "bob@example.com", "research")
    await departments.update(session, "research", archived=False)
    await users.create(session, "bob@example.com", "research")


async def test_quotas_follow_a_new_name(session):
    await quotas.put(session, Limit("department", "research", "tokens", "month", 7))
    await quotas.put(session, Limit("user", "ada@example.com", "requests", "day", 8))
    await departments.update(session, "research", new_name="science")
    await users.update(session, "ada@example.com", new_email="Ada@Science.org", display_name="Ada L", role="admin")
    assert {limit.label for limit in await quotas.limits(session)} == {"department science", "user ada@science.org"}
    ada = await users.find(session, "ada@science.org")
    assert (ada.display_name, ada.role) == ("Ada L", "admin")


async def test_a_deactivated_user_gets_no_keys_until_back(session):
    await users.deactivate(session, "ada@example.com")
    with pytest.raises(Conflict, match="deactivated"):
        await a_key(session)
    await users.reactivate(session, "ada@example.com")
    assert await a_key(session)


async def test_a_key_is_stored_as_digest_only_and_listed_newest_first(session):
    first = await a_key(session, name="laptop", models=["b", "a", "b"])
    second = await a_key(session)
    assert first.models == ["a", "b"]
    assert len(first.digest) == 32
    assert [key.public_id for key in await api_keys.every(session)] == [second.public_id, first.public_id]
    assert len(await api_keys.every(session, user="ada@example.com")) == 2


@pytest.mark.parametrize("changes", [{"models": []}, {"expires_at": 1.0}, {"name": "x" * 101}])
async def test_a_key_that_could_never_be_used_is_refused(session, changes):
    with pytest.raises(Invalid):
        await a_key(session, **changes)


async def test_a_key_made_elsewhere_is_taken_once_and_only_if_it_could_be_ours(session):
    brought = new_key()
    issued = await issuing.issue(session, PEPPER, "ada@example.com", text=brought.text)
    assert (issued.text, issued.row.public_id) == brought
    with pytest.raises(Conflict, match=brought.public_id):
        await issuing.issue(session, PEPPER, "ada@example.com", text=brought.text)
    with pytest.raises(Invalid, match="could have made") as caught:
        await issuing.issue(session, PEPPER, "ada@example.com", text=Secret("hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_a_rotated_key_hands_its_rights_and_quotas_to_its_successor(session):
    old = await a_key(session, name="laptop", models=["m"])
    await quotas.put(session, Limit("key", old.public_id, "cost", "month", 5))
    new = (await issuing.rotate(session, PEPPER, old.public_id, overlap_s=3600)).row
    assert (new.name, new.models, new.user_id, new.expires_at) == ("laptop", ["m"], old.user_id, None)
    assert old.replaced_by == new.id
    assert old.revoked_at is None
    assert old.expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert {limit.subject for limit in await quotas.limits(session)} == {old.public_id, new.public_id}
    with pytest.raises(Conflict, match="already been rotated"):
        await issuing.rotate(session, PEPPER, old.public_id)


async def test_rotation_never_lengthens_a_life(session):
    soon = time.time() + 60
    old = await a_key(session, expires_at=soon)
    new = (await issuing.rotate(session, PEPPER, old.public_id, overlap_s=3600)).row
    assert (old.expires_at, new.expires_at) == (soon, soon)


async def test_without_overlap_the_old_key_stops_at_once_and_is_not_rotated_again(session):
    old = await a_key(session)
    await issuing.rotate(session, PEPPER, old.public_id)
    assert old.revoked_at is not None
    with pytest.raises(Conflict, match="no longer works"):
        await issuing.rotate(session, PEPPER, old.public_id)


async def test_a_quota_set_twice_is_one_quota(session):
    await quotas.put(session, Limit("global", "", "tokens", "month", 1))
    await quotas.put(session, Limit("global", "", "tokens", "month", 2, "warn"))
    (quota,) = await quotas.every(session)
    assert quotas.as_limit(quota) == Limit("global", "", "tokens", "month", 2, "warn")
    await quotas.remove(session, "global", "", "tokens", "month")
    with pytest.raises(NotFound, match="No quota is set on global for tokens per month"):
        await quotas.remove(session, "global", "", "tokens", "month")


@pytest.mark.parametrize(
    "limit",
    [
        Limit("planet", "x", "tokens", "month", 1),
        Limit("global", "", "joy", "month", 1),
        Limit("global", "", "tokens", "week", 1),
        Limit("global", "", "tokens", "month", 1, "shrug"),
        Limit("global", "x", "tokens", "month", 1),
        Limit("model", "", "tokens", "month", 1),
        Limit("global", "", "parallel", "minute", 1),
        Limit("global", "", "tokens", "none", 1),
        Limit("global", "", "tokens", "month", -1),
        Limit("global", "", "tokens", "month", MAX_AMOUNT),
        Limit("global", "", "tokens", "month", True),
        Limit("global", "", "tokens", "month", 1.5),
        Limit("global", "", "tokens", "month", float("nan")),
    ],
)
async def test_a_limit_that_cannot_be_enforced_is_refused(session, limit):
    with pytest.raises(Invalid):
        await quotas.put(session, limit)
    assert await quotas.limits(session) == ()


async def test_every_change_that_others_have_cached_is_announced(session):
    key = await a_key(session)
    limit = Limit("global", "", "tokens", "month", 1)
    changes = [
        lambda: departments.create(session, "sales"),
        lambda: departments.update(session, "sales", archived=True),
        lambda: departments.delete(session, "sales"),
        lambda: users.create(session, "bob@example.com", "research"),
        lambda: users.update(session, "bob@example.com", display_name="Bob"),
        lambda: users.deactivate(session, "bob@example.com"),
        lambda: users.reactivate(session, "bob@example.com"),
        lambda: a_key(session),
        lambda: issuing.rotate(session, PEPPER, key.public_id, overlap_s=60),
        lambda: api_keys.revoke(session, key.public_id),
        lambda: quotas.put(session, limit),
        lambda: quotas.remove(session, "global", "", "tokens", "month"),
    ]
    for change in changes:
        before = await revisions.current(session)
        await change()
        assert await revisions.current(session) > before


async def test_a_change_that_is_rolled_back_announces_nothing(database):
    await issue_key(database)
    async with database.read() as session:
        before = await revisions.current(session)

    async def rename_and_delete() -> None:
        async with database.write() as session:
            await departments.update(session, "research", new_name="science")
            await departments.delete(session, "science")

    with pytest.raises(Conflict):
        await rename_and_delete()
    async with database.read() as session:
        assert await revisions.current(session) == before
        assert (await departments.find(session, "research")).name == "research"
