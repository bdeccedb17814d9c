"""What a person can mistype, and what a machine can lack: one sentence with a remedy, the right code, no traceback."""

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import click
import pytest
from click.testing import CliRunner

from gateway import cli
from tests.cli.command import Shell


def every_command(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*words, name))
        else:
            yield (*words, name)


EVERY = list(every_command(cli.aidock))


@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(words) or "aidock")
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = CliRunner().invoke(cli.aidock, [*words, flag])
        assert result.exit_code == 0
        assert "Usage:" in result.stdout
    if words:
        summary = result.stdout.split("\n\n")[1].strip()
        assert len(summary) > 10, "it says what it does"


def test_every_command_that_prints_data_can_print_json() -> None:
    """Those without change something and say so in words, or have one form of output by their nature."""
    words_only = {
        *{("serve",), ("init",), ("migrate",), ("config", "check"), ("config", "schema")},
        *{("departments", "delete"), ("users", "deactivate"), ("users", "reactivate"), ("keys", "revoke")},
        ("quotas", "remove"),
    }
    for words in EVERY:
        if words in words_only or isinstance(_resolve(words), click.Group):
            continue
        options = {flag for parameter in _resolve(words).params for flag in parameter.opts}
        assert "--json" in options, words


def _resolve(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli.aidock
    for name in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def test_the_version_is_quick_to_tell(fresh: Shell) -> None:
    best = 1e9
    for _ in range(3):
        began = time.monotonic()
        result = fresh.process("--version")
        best = min(best, time.monotonic() - began)
    assert result.out.startswith("aidock ")
    assert best <= 1.0


def test_the_version_is_told_without_loading_the_gateway(fresh: Shell) -> None:
    """What keeps it quick on any machine: neither the database nor the server library is imported for it."""
    result = fresh.process("--version", env={"PYTHONPROFILEIMPORTTIME": "1"})
    for heavy in ("sqlalchemy", "alembic", "uvicorn", "pydantic", "gateway.settings"):
        assert f" {heavy}\n" not in result.err


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "keys create",
        "keys create --user a@b.c --expires soon",
        "keys create --user a@b.c --expires 999999999w",
        "quotas set department research tokens 100",
        "quotas set department research tokens 1.5 month",
        "quotas set department research tokens -1 month",
        "quotas set department research tokens nan month",
        "quotas set department research tokens inf month",
        "quotas set department research tokens 1e9999999 month",
        "quotas set department research tokens 1125899906842624 month",
        "quotas set department research cost 1e9999999 month",
        "quotas set department research cost lots month",
        "quotas set department research cost 5 fortnight",
        "quotas set department research smiles 5 month",
        "quotas set planet earth tokens 5 month",
        "quotas set key k1 parallel 4 minute",
        "quotas set key k1 parallel 4 --action shout",
        "usage --from 2026-13-45",
        "usage --format xml",
        "usage --from 0001-01-01",
        "usage --to 9999-12-31",
        "reconcile --from 0001-01-01",
        "reconcile --from 1970-12-31",
        "reconcile --to 9999-12-31",
        "prices reprice --from 0001-01-01 --to 2026-11-30",
        "prices reprice --from 2026-11-01 --to 9999-12-31",
        "serve --port 99999",
        "serve --workers 0",
        "connect emacs",
        "connect curl --base-url llm.example.com",
        "connect curl --base-url http://[::1",
    ],
)
def test_wrong_usage_is_code_2_and_says_what_was_wrong(words: str) -> None:
    result = CliRunner().invoke(cli.aidock, words.split(), env={"AIDOCK_DATA": "/nowhere", "AIDOCK_CONFIG": ""})
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Error:" in result.stderr


def test_a_year_that_no_ledger_reaches_is_said_to_be_the_mistake() -> None:
    result = CliRunner().invoke(cli.aidock, ["reconcile", "--to", "9999-12-31"])
    assert "Invalid value for '--to': the year of '9999-12-31' is not one from 1971 to 9998." in result.stderr


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_first_and_the_last_day_that_may_be_named_are_days_like_others(fresh: Shell, zone: str) -> None:
    fresh.ok("migrate")
    days = ("--from", "1971-01-01", "--to", "9998-12-31", "--json")
    env = {"AIDOCK_TIMEZONE": zone}
    assert fresh.ok("usage", *days, env=env).json == []
    assert fresh.ok("reconcile", *days, env=env).json["equal"]
    assert fresh.ok("prices", "reprice", *days, env=env).json == {"adjusted": 0, "differences": []}


def test_every_group_runs_as_a_program(shell: Shell) -> None:
    """The stories run in the tests' own process; this is that the program comes to the same."""
    commands = ["departments list", "users list", "keys list", "quotas list", "usage"]
    for words, result in zip(commands, shell.each([((*w.split(), "--json"), {}) for w in commands]), strict=True):
        assert (result.code, result.json, result.err) == (0, [], ""), words


def test_names_that_nobody_has_are_code_1_with_a_suggestion(shell: Shell) -> None:
    shell.ok("departments", "create", "research")
    mistakes = [
        ("users", "create", "a@b.c", "--department", "reserch"),
        ("quotas", "set", "department", "reserch", "cost", "5", "month"),
        ("keys", "create", "--user", "nobody@example.com"),
        ("keys", "revoke", "nothing"),
        ("usage", "--by", "colour"),
        ("departments", "create", "research"),
        ("departments", "create", os.fsdecode(b"\xff\xfe")),
        ("users", "create", "no address"),
        ("connect", "curl", "--model", "dmo"),
    ]
    results = [shell.aidock(*words) for words in mistakes]
    for result in results:
        assert (result.code, result.out, result.traceback) == (1, "", False), result
        assert len(result.err.splitlines()) == 1, result
    for index in (0, 1):
        assert "Did you mean 'research'?" in results[index].err


def test_a_broken_environment_is_told_in_a_sentence_with_a_remedy(fresh: Shell) -> None:
    def data(name: str, content: bytes | None) -> dict[str, str]:
        directory = fresh.directory / name
        directory.mkdir()
        if content is None:
            (directory / "aidock.db").mkdir()
        else:
            (directory / "aidock.db").write_bytes(content)
        return {"AIDOCK_DATA": str(directory)}

    in_the_way = fresh.write("file", "")
    serve = ("serve", "--port", "1")
    cases = [
        (("departments", "list"), {"AIDOCK_DATA": str(in_the_way / "data")}, 1, "AIDOCK_DATA"),
        (("usage", "--json"), data("corrupt", b"no database at all. " * 500), 1, "restore a backup"),
        (("migrate",), data("directory", None), 1, "restore a backup"),
        (("users", "list"), {"DATABASE_URL": "mysql://x"}, 78, "postgresql://"),
        (("users", "list"), {"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/x"}, 1, "DATABASE_URL"),
        (("keys", "list", "--config", str(fresh.directory)), {}, 78, "directory"),
        (("config", "check"), {"PORT": "eighty"}, 78, "PORT"),
        (serve, {"REDIS_URL": "junk"}, 78, "redis://"),
        (serve, {"REDIS_URL": "redis://127.0.0.1:1/0"}, 1, "REDIS_URL"),
        (serve, {"AIDOCK_SECRET": "short"}, 1, "secrets.token_urlsafe"),
        (serve, {"AIDOCK_DATA": str(in_the_way / "data")}, 1, "AIDOCK_DATA"),
        (serve, {"AIDOCK_INIT_ADMIN_EMAIL_FILE": "/nowhere/x"}, 78, "AIDOCK_INIT_ADMIN_EMAIL_FILE"),
        (serve, {"AIDOCK_INIT_API_KEY": "sk-mine"}, 1, "aidock keys create"),
        (("serve", "--workers", "2"), {}, 78, "server.workers to 1"),
        (("serve", "--workers", "2"), {}, 78, "redis://"),
    ]
    results = fresh.each([(words, env) for words, env, _, _ in cases])  # processes: a traceback would be theirs
    for (words, env, code, remedy), result in zip(cases, results, strict=True):
        assert (result.code, result.out, result.traceback) == (code, "", False), (words, env, result)
        assert remedy in result.err, (words, env, result)
        assert "hidden" not in result.err


def test_another_secret_than_the_databases_is_refused(shell: Shell) -> None:
    shell.ok("departments", "create", "d")
    shell.ok("users", "create", "a@b.c", "--department", "d")
    shell.ok("keys", "create", "--user", "a@b.c")
    env = {"AIDOCK_SECRET": "7Jq0vN2xKd9RtYw4LmZs8BhPcXfGaEuV"}
    results = shell.each([(("keys", "create", "--user", "a@b.c"), env), (("serve", "--port", "1"), env)])
    for result in results:
        assert (result.code, result.out, result.traceback) == (1, "", False)
        assert "secret.key" in result.err


def test_a_damaged_page_is_told_in_a_sentence(shell: Shell) -> None:
    path = shell.data / "aidock.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:] = bytes((byte * 7 + 13) % 256 for byte in content[4096:])
    path.write_bytes(content)
    result = shell.process("keys", "list")
    assert (result.code, result.out, result.traceback) == (1, "", False)
    assert str(path) in result.err


def test_a_port_that_is_taken_is_named_and_the_first_key_is_not_lost(shell: Shell) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        refused = shell.process("serve", "--port", port)
    assert (refused.code, refused.traceback) == (1, False)
    assert f"Port {port}" in refused.err
    assert "--port" in refused.err
    assert "sk-aidock-" in refused.err, "it was made, so it is shown: nobody could learn it later"
