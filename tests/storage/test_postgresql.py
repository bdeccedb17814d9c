"""What PostgreSQL does to a gateway, and what the gateway makes of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from gateway.storage import ledger, settings
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable, Invalid, Unstorable
from gateway.storage.migrate import migrate, pending
from gateway.storage.postgresql import POOL_SIZE
from tests.storage.rows import BERLIN, insert, row
from tests.support.postgres_server import ADMIN, PASSWORD, PostgresServer
from tests.support.until import until


@pytest.fixture
def url(postgresql):
    return postgresql


@contextmanager
def down(server: PostgresServer):
    """The server is gone inside."""
    server.stop()
    try:
        yield
    finally:
        server.start()


async def works(database: Database) -> bool:
    async with database.write() as session:
        await settings.put(session, "colour", "blue")
    async with database.read() as session:
        return await settings.get(session, "colour") == "blue"


async def test_a_connection_says_who_it_is_and_has_a_time_limit(database):
    async with database.read() as session:
        assert await session.scalar(text("SHOW application_name")) == "aidock"
        assert await session.scalar(text("SHOW statement_timeout")) == "30s"
        assert await session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    async with database.write() as session:
        assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_what_the_url_says_about_the_connection_goes_before(url, tmp_path):
    database = Database.open(f"{url}?application_name=mine&statement_timeout=5000", tmp_path)
    async with database.read() as session:
        assert await session.scalar(text("SHOW application_name")) == "mine"
        assert await session.scalar(text("SHOW statement_timeout")) == "5s"
    await database.close()


async def test_a_server_is_reached_by_its_socket(postgres, url, tmp_path):
    database = Database.open(postgres.socket_url(url.rpartition("/")[2]), tmp_path)
    assert await works(database)
    await database.close()


async def test_a_server_that_is_gone_is_unavailable_at_once_and_works_when_it_is_back(postgres, database):
    assert await works(database)
    with down(postgres):
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await works(database)
    assert await works(database)


async def test_connections_that_died_at_rest_are_replaced_without_a_word(postgres, database):
    async with database.read() as one, database.read() as another:
        await settings.get(one, "colour")
        await settings.get(another, "colour")
    with down(postgres):
        pass
    assert await works(database)
    async with database.read() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
    postgres.ask(f"SELECT pg_terminate_backend({pid})")
    assert await works(database)


async def test_a_crash_in_a_transaction_leaves_nothing_behind(postgres, database):
    async def write_and_crash() -> None:
        async with database.write() as session:
            await settings.put(session, "colour", "red")
            postgres.crash()
            await session.scalar(text("SELECT 1"))

    try:
        with pytest.raises(DatabaseUnavailable, match="connection"):
            await write_and_crash()
    finally:
        postgres.start()
    async with database.read() as session:
        assert await settings.get(session, "colour") is None


async def test_a_server_that_does_nothing_is_given_up_on(postgres, url, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.storage.postgresql.CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr("gateway.storage.postgresql._GRACE_S", 0.5)
    database = Database.open(url, tmp_path, statement_timeout=0.5)
    assert await works(database)
    postgres.pause()
    try:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match="does not answer"):
                async with asyncio.timeout(30):
                    await works(database)
    finally:
        postgres.resume()
    await until(lambda: works(database))
    await database.close()


async def test_a_statement_that_takes_too_long_is_ended_and_the_next_one_works(url, tmp_path):
    database = Database.open(url, tmp_path, statement_timeout=0.2)
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        async with database.read() as session:
            await session.scalar(text("SELECT pg_sleep(60)"))
    assert await works(database)
    await database.close()


async def test_a_cancelled_statement_is_ended_at_the_server_too(postgres, database):
    async def work() -> None:
        async with database.write() as session:
            await session.scalar(text("SELECT pg_sleep(77)"))

    def running() -> bool:
        return postgres.ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(77)%' "
                            "AND state = 'active' AND pid <> pg_backend_pid()") == "1"  # fmt: skip

    task = asyncio.create_task(work())
    await until(running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not running())
    assert await works(database)


async def test_of_two_that_wait_for_each_other_one_goes_on(database):
    async with database.write() as session:
        await settings.put(session, "a", "0")
        await settings.put(session, "b", "0")
    barrier = asyncio.Barrier(2)

    async def swap(first: str, second: str) -> None:
        async with database.write() as session:
            await settings.put(session, first, "1")
            await barrier.wait()
            await settings.put(session, second, "1")

    results = await asyncio.gather(swap("a", "b"), swap("b", "a"), return_exceptions=True)
    (failed,) = [result for result in results if result is not None]
    assert isinstance(failed, DatabaseUnavailable)
    assert "deadlock" in str(failed)


async def test_a_server_without_room_for_another_connection_is_unavailable(postgres, url, tmp_path):
    postgres.ask(f"CREATE ROLE crowd LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 1")
    database = Database.open(url.replace(f"{ADMIN}:", "crowd:"), tmp_path)
    async with database.read() as one:
        await one.scalar(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            async with database.read() as another:
                await another.scalar(text("SELECT 1"))
    await database.close()
    postgres.ask("DROP ROLE crowd")


async def test_a_process_takes_no_more_connections_than_its_share(url, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.storage.postgresql.CONNECT_TIMEOUT_S", 0.5)
    database = Database.open(url, tmp_path)
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            session = await stack.enter_async_context(database.read())
            await session.scalar(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="in use"):
            async with database.read() as one_more:
                await one_more.scalar(text("SELECT 1"))
    assert await works(database)
    await database.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace(PASSWORD.replace(" ", "%20"), "hunter2"), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "does not exist"),
        (lambda url: url + "?sslmode=require", "SSL"),
        (lambda url: url + "?sslmode=nonsense", "sslmode"),
        (lambda url: url + "?target_session_attrs=standby", "None of the hosts match"),
    ],
)
async def test_a_connection_that_cannot_be_made_is_told_without_the_password(url, tmp_path, change, reason):
    database = Database.open(change(url), tmp_path)
    with pytest.raises(DatabaseUnavailable, match=reason) as caught:
        await works(database)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable, match=reason):
        await asyncio.to_thread(migrate, change(url))
    await database.close()


async def test_a_server_that_has_become_a_standby_is_unavailable_not_a_defect(postgres, database, url):
    postgres.ask(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await insert(database, row())


async def test_text_that_postgresql_cannot_hold_is_a_fault_of_the_row(database):
    with pytest.raises(Unstorable):
        await insert(database, row(), row("r2", upstream_model="nul\0"))
    with pytest.raises(Unstorable):
        async with database.write() as session:
            await settings.put(session, "colour", "nul\0")


async def test_lost_connections_never_make_rows_look_unfit(postgres, database):
    """A row that is called unfit goes to quarantine."""
    await insert(database, row())

    async def insert_twice_around_a_crash() -> None:
        async with database.write() as session:
            await ledger.insert_rows(session, [row("r2")], BERLIN)
            postgres.crash()
            await ledger.insert_rows(session, [row("r3")], BERLIN)

    try:
        with pytest.raises(DatabaseUnavailable):
            await insert_twice_around_a_crash()
        with pytest.raises(DatabaseUnavailable):
            await insert(database, row("r4"))
    finally:
        postgres.start()
    assert await insert(database, row(), row("r2"), row("r3"), row("r4")) == 3


def test_processes_that_start_at_once_migrate_once(postgres):
    url = postgres.empty_database()
    program = f"from gateway.storage.migrate import migrate; migrate({url!r})"
    processes = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert pending(url) == []


def test_a_user_who_may_not_make_tables_is_told_so(postgres):
    url = postgres.empty_database()
    postgres.ask(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(DatabaseUnavailable, match="permission denied"):
        migrate(url.replace(f"{ADMIN}:", "guest:"))
    postgres.ask("DROP ROLE guest")


@pytest.mark.parametrize("wrong", ["postgresql://host:port/db", "postgresql://[::1/db"])
def test_a_url_that_cannot_be_read_is_refused(wrong):
    with pytest.raises(Invalid):
        pending(wrong)


@pytest.fixture
def encrypted(postgres, tmp_path):
    """The server with a certificate for 127.0.0.1, and the file of the authority that signed it."""
    authority, certificate, key = certificates()
    files = {"server.crt": certificate, "server.key": key}
    for name, content in files.items():
        path = postgres.data / name
        path.write_bytes(content)
        path.chmod(0o600)
        postgres.own(path)
    (tmp_path / "authority.pem").write_bytes(authority)
    postgres.ask("ALTER SYSTEM SET ssl = on")
    postgres.ask("SELECT pg_reload_conf()")
    yield tmp_path / "authority.pem"
    postgres.ask("ALTER SYSTEM RESET ssl")
    postgres.ask("SELECT pg_reload_conf()")


@pytest.mark.parametrize("query", ["sslmode=require", "sslmode=verify-full&sslrootcert={authority}"])
async def test_connections_are_encrypted_and_verified_as_the_url_says(encrypted, url, tmp_path, query):
    full = f"{url}?{query.format(authority=encrypted)}"
    await asyncio.to_thread(migrate, full)
    database = Database.open(full, tmp_path)
    async with database.read() as session:
        assert await session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    await database.close()


async def test_a_server_with_the_wrong_certificate_is_not_talked_to(encrypted, url, tmp_path):
    stranger, _, _ = certificates()
    encrypted.write_bytes(stranger)
    database = Database.open(f"{url}?sslmode=verify-full&sslrootcert={encrypted}", tmp_path)
    with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
        await works(database)
    await database.close()


def certificates() -> tuple[bytes, bytes, bytes]:
    """An authority, a certificate it has signed for 127.0.0.1, and that one's key."""
    now = datetime.now(UTC)

    def sign(name: str, key, issuer: str, signer, extension) -> x509.Certificate:
        subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        builder = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return builder.add_extension(extension, critical=True).sign(signer, hashes.SHA256())

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    authority = sign("authority", root, "authority", root, x509.BasicConstraints(ca=True, path_length=None))
    certificate = sign("server", key, "authority", root, here)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem), certificate.public_bytes(pem), secret
