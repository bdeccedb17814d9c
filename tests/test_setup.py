"""The first start sets up once, and only once."""

from pathlib import Path

import pytest

from gateway.identity.keys import new_key
from gateway.identity.pepper import Pepper, PepperRefused
from gateway.setup import ADMIN, DEPARTMENT, set_up
from gateway.storage import api_keys, departments, users
from gateway.storage.errors import Invalid
from tests.support.database import PEPPER, ready_database


async def test_the_first_start_makes_an_administrator_with_a_key_and_the_second_nothing(tmp_path: Path) -> None:
    database = await ready_database(tmp_path)
    first = await set_up(database, PEPPER, {})
    assert first is not None
    assert first.key is not None
    assert first.admin == ADMIN
    assert await set_up(database, PEPPER, {"AIDOCK_INIT_ADMIN_EMAIL": "other@example.com"}) is None
    async with database.read() as session:
        (user,) = await users.every(session)
        assert (user.email, user.role) == (ADMIN, "admin")
        assert [home.name for home in await departments.every(session)] == [DEPARTMENT]
        assert len(await api_keys.every(session)) == 1
    await database.close()


async def test_an_operators_own_address_and_key_are_used_and_the_key_is_not_shown(tmp_path: Path) -> None:
    database = await ready_database(tmp_path)
    key = new_key().text.reveal()
    (tmp_path / "key").write_text(key + "\n")
    environ = {"AIDOCK_INIT_ADMIN_EMAIL": "Root@Example.com", "AIDOCK_INIT_API_KEY_FILE": str(tmp_path / "key")}
    first = await set_up(database, PEPPER, environ)
    assert first is not None
    assert first.key is None
    async with database.read() as session:
        (made,) = await api_keys.every(session)
        assert made.public_id in key
        assert (await users.every(session))[0].email == "root@example.com"
    await database.close()


@pytest.mark.parametrize("environ", [{"AIDOCK_INIT_ADMIN_EMAIL": "junk"}, {"AIDOCK_INIT_API_KEY": "junk"}])
async def test_a_start_that_fails_sets_up_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    database = await ready_database(tmp_path)
    with pytest.raises(Invalid):
        await set_up(database, PEPPER, environ)
    async with database.read() as session:
        assert await users.every(session) == []
        assert await departments.every(session) == []
    await database.close()


async def test_another_secret_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    database = await ready_database(tmp_path)
    await set_up(database, PEPPER, {})
    with pytest.raises(PepperRefused):
        await set_up(database, Pepper(b"quite another secret than the first one was"), {})
    await database.close()


async def test_a_department_that_was_made_before_the_first_start_is_used(tmp_path: Path) -> None:
    database = await ready_database(tmp_path)
    async with database.write() as session:
        await departments.create(session, DEPARTMENT)
    assert await set_up(database, PEPPER, {}) is not None
    async with database.read() as session:
        assert [home.name for home in await departments.every(session)] == [DEPARTMENT]
    await database.close()
