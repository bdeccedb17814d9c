"""What the commands do, each story in the order a person would tell it. Data is on stdout, words are on stderr."""

import asyncio
import csv
import io
import re
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from gateway.core.records import OutcomeRecord
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.cli.command import Shell
from tests.ledger.support import outcome

KEY = re.compile(r"sk-aidock-[0-9A-Za-z]{61}")


def test_departments_are_made_renamed_archived_and_removed(fresh: Shell) -> None:
    made = fresh.ok("departments", "create", "research", "--json")
    assert made.json[0]["name"] == "research"
    assert made.err == "", "the database is made without a word"
    renamed = fresh.ok("departments", "update", "research", "--name", "science", "--archive", "--json").json[0]
    assert (renamed["name"], bool(renamed["archived_at"])) == ("science", True)
    assert fresh.ok("departments", "list").out.splitlines()[1].startswith("science")
    gone = fresh.ok("departments", "delete", "science")
    assert (gone.out, "science" in gone.err) == ("", True)
    assert fresh.ok("departments", "list", "--json").json == []
    missing = fresh.aidock("departments", "delete", "science")
    assert (missing.code, missing.out, missing.traceback) == (1, "", False)


def test_users_and_their_keys_from_the_first_day_to_the_last(shell: Shell) -> None:
    shell.ok("departments", "create", "research")
    user = shell.ok("users", "create", "Ada@Example.com", "--department", "research", "--json").json[0]
    assert (user["email"], user["department"], user["role"]) == ("ada@example.com", "research", "user")

    alone = shell.ok("keys", "create", "--user", "ada@example.com", "--models", "demo,other", "--expires", "30d")
    assert KEY.fullmatch(alone.out.strip()), "the key alone is on stdout"
    made = shell.ok("keys", "create", "--user", "ada@example.com", "--name", "laptop", "--json").json
    assert KEY.fullmatch(made["key"])
    assert (made["user"], made["name"], made["models"], made["state"]) == ("ada@example.com", "laptop", None, "active")

    rotated = shell.ok("keys", "rotate", made["id"], "--overlap", "24h", "--json").json
    assert KEY.fullmatch(rotated["key"])
    assert rotated["key"] != made["key"]
    shell.ok("keys", "revoke", rotated["id"])
    listed = shell.ok("keys", "list", "--user", "ada@example.com", "--json")
    states = {row["id"]: row["state"] for row in listed.json}
    assert states.pop(rotated["id"]) == "revoked"
    assert states.pop(made["id"]) == "replaced", "and goes on for a day"
    (first,) = states
    assert next(row["models"] for row in listed.json if row["id"] == first) == ["demo", "other"]
    old = next(row for row in listed.json if row["id"] == made["id"])
    left = datetime.fromisoformat(old["expires_at"]).timestamp() - time.time()
    assert 86_000 < left <= 86_400
    assert "sk-aidock" not in listed.out, "a key is shown once"

    changed = shell.ok("users", "update", "ada@example.com", "--role", "admin", "--name", "Ada L.", "--json").json[0]
    assert (changed["role"], changed["name"]) == ("admin", "Ada L.")
    shell.ok("users", "deactivate", "ada@example.com")
    refused = shell.aidock("keys", "create", "--user", "ada@example.com")
    assert (refused.code, refused.out) == (1, "")
    assert "deactivated" in refused.err
    assert shell.ok("users", "list", "--json").json[0]["deactivated_at"]
    shell.ok("users", "reactivate", "ada@example.com")
    shell.ok("keys", "create", "--user", "ada@example.com")
    assert shell.ok("users", "list", "--json").json[0]["deactivated_at"] is None


def test_quotas_are_set_changed_listed_with_their_origin_and_removed(shell: Shell) -> None:
    shell.ok("departments", "create", "research")
    config = shell.write("aidock.yaml", "quotas: [{scope: global, metric: requests, window: minute, limit: 5000}]\n")
    env = {"AIDOCK_CONFIG": str(config)}
    quota = ("department", "research", "cost")
    shell.ok("quotas", "set", *quota, "$1_200.50", "month", env=env)
    changed = shell.ok("quotas", "set", *quota, "12.50", "month", "--action", "warn", "--json", env=env).json[0]
    assert (changed["limit"], changed["action"], changed["origin"]) == (12.5, "warn", "console")
    shell.ok("quotas", "set", "global", "-", "parallel", "4", env=env)

    rows = shell.ok("quotas", "list", "--json", env=env).json
    assert {(row["scope"], row["metric"], row["window"], row["origin"]) for row in rows} == {
        ("global", "requests", "minute", "file"),
        ("department", "cost", "month", "console"),
        ("global", "parallel", None, "console"),
    }
    gone = shell.ok("quotas", "remove", *quota, "month", env=env)
    assert (gone.out, gone.err) == ("", "The limit is gone.\n")
    again = shell.aidock("quotas", "remove", *quota, "month", env=env)
    assert (again.code, again.traceback) == (1, False)


def test_a_limit_has_one_origin(shell: Shell) -> None:
    shell.ok("quotas", "set", "global", "-", "requests", "10", "minute")
    config = shell.write(
        "aidock.yaml",
        "quotas:\n"
        "  - {scope: global, metric: requests, window: minute, limit: 5000}\n"
        "  - {scope: global, metric: tokens, window: day, limit: 5000}\n",
    )
    env = {"AIDOCK_CONFIG": str(config)}
    refused = shell.aidock("quotas", "set", "global", "-", "tokens", "9", "day", env=env)
    unserved = shell.process("serve", "--port", "1", env=env)
    assert (refused.code, refused.out) == (1, "")
    assert f"{config}:3:" in refused.err
    assert "database" in refused.err
    assert unserved.code == 78
    assert f"{config}:2:" in unserved.err
    assert "aidock quotas remove global - requests minute" in unserved.err
    assert [row["metric"] for row in shell.ok("quotas", "list", "--json").json] == ["requests"], "nothing was set"


async def keep(data: Path, *rows: OutcomeRecord) -> None:
    database = Database.open(f"sqlite:///{data / 'aidock.db'}", data)
    async with database.write() as session:
        await ledger.insert_rows(session, rows, UTC)  # type: ignore[arg-type]
    await database.close()


def test_usage_as_table_csv_and_json_says_the_same(shell: Shell) -> None:
    day = datetime.fromtimestamp(outcome("r1").created_at, UTC).strftime("%Y-%m-%d")
    rows = [
        outcome("r1", cost_microusd=1_500_000),
        outcome("r2", cost_microusd=1),
        outcome("r4", provider="cache", prompt_tokens=0, completion_tokens=0, cost_microusd=0, saved_microusd=250_000),
        outcome("r3", department="=cmd()", user="eve@example.com"),
    ]
    asyncio.run(keep(shell.data, *rows))
    table = shell.ok("usage")
    as_csv = shell.ok("usage", "--by", "department,model,day", "--format", "csv")
    as_json = shell.ok("usage", "--by", "department,model", "--from", day, "--to", day, "--format", "json")
    none = shell.ok("usage", "--from", "1999-01-01", "--to", "1999-12-31", "--json")
    told = {row["department"]: row for row in as_json.json}
    assert told["research"] == {
        "department": "research",
        "model": "gpt-4o-mini",
        "requests": 3,
        "prompt_tokens": 24,
        "completion_tokens": 68,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "cost_usd": 1.500001,
        "saved_usd": 0.25,
    }
    assert "1.500001" in next(line for line in table.out.splitlines() if line.startswith("research"))
    cells = {row["department"]: row for row in csv.DictReader(io.StringIO(as_csv.out))}
    assert [cells["research"][name] for name in ("requests", "day", "saved_usd")] == ["3", day, "0.25"]
    assert "'=cmd()" in cells, "a spreadsheet shows it and does not run it"
    assert none.json == []


def test_a_configuration_is_checked_shown_and_described(fresh: Shell) -> None:
    good = fresh.write("good.yaml", "models: [{model_id: m, base_url: 'http://127.0.0.1:1/v1', api_key: sk-hidden}]\n")
    bad = fresh.write("bad.yaml", "server:\n  prot: 9000\npolicies:\n  - {quota: {min_output_tokens: 0}}\n")
    checked = fresh.aidock("config", "check", str(good))
    refused = fresh.aidock("config", "check", env={"AIDOCK_CONFIG": str(bad)})
    shown = fresh.ok("config", "show", "--config", str(good))
    as_json = fresh.ok("config", "show", "--json", env={"AIDOCK_CONFIG": str(good), "PORT": "9001"})
    schema = fresh.ok("config", "schema")
    missing = fresh.aidock("config", "check", "nowhere.yaml")
    assert (checked.code, checked.out) == (0, "")
    assert "1 models at 1 providers" in checked.err
    assert (refused.code, refused.out) == (78, "")
    assert f"{bad}:2:3" in refused.err
    assert "port" in refused.err, "what was meant"
    assert yaml.safe_load(shown.out)["models"][0]["model_id"] == "m"
    assert as_json.json["server"]["port"] == 9001
    assert "sk-hidden" not in shown.out + as_json.out
    assert "properties" in schema.json
    assert (missing.code, missing.traceback) == (78, False)
    assert not fresh.data.exists(), "looking at a configuration makes nothing"


def test_every_policy_setting_that_is_wrong_is_told_with_its_place(fresh: Shell) -> None:
    bad = fresh.write("bad.yaml", "policies:\n  - {quota: {min_output_tokens: 0}}\n  - {rate_limit: {speed: 1}}\n")
    refused = fresh.aidock("config", "check", str(bad))
    assert refused.code == 78
    assert f"{bad}:2:" in refused.err
    assert f"{bad}:3:" in refused.err
    assert "min_output_tokens" in refused.err


@pytest.mark.parametrize("preset", ["demo", "openai", "ollama", "vllm", "azure", "gemini"])
def test_a_preset_can_be_checked_as_it_was_written(fresh: Shell, preset: str) -> None:
    fresh.ok("init", "--preset", preset)
    written = (fresh.directory / "aidock.yaml").read_text()
    assert yaml.safe_load(written)
    assert "#" in written, "commented"
    names = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY", "VLLM_API_KEY", "GEMINI_API_KEY")
    keys = dict.fromkeys(names, "sk-test")
    fresh.ok("config", "check", "aidock.yaml", env=keys)


def test_init_never_overwrites_and_suggests(fresh: Shell) -> None:
    mine = fresh.write("aidock.yaml", "# mine\n")
    again = fresh.aidock("init")
    typo = fresh.aidock("init", "--preset", "opnai")
    other = fresh.aidock("init", "--output", "other.yaml")
    assert (again.code, mine.read_text()) == (1, "# mine\n")
    assert "stays as it is" in again.err
    assert typo.code == 2
    assert "Did you mean 'openai'?" in typo.err
    assert (other.code, other.out) == (0, "")
    assert fresh.ok("config", "check", "other.yaml").code == 0
    assert "demo" in fresh.ok("init", "--list").out.split()


def test_migrate_says_what_is_pending_and_does_it_once(fresh: Shell) -> None:
    waiting = fresh.aidock("migrate", "--check")
    assert waiting.code == 1
    assert waiting.out.count("\n") >= 1
    assert not (fresh.data / "aidock.db").exists(), "checking makes nothing"
    done = fresh.ok("migrate")
    assert "Applied" in done.err
    assert fresh.ok("migrate", "--check").out == ""


def test_connect_prints_what_a_client_needs_and_no_secret(fresh: Shell) -> None:
    at = ("--base-url", "https://llm.example.com/v1/")
    clients = ("python", "curl", "continue", "node", "aider", "openwebui", "langchain", "codex")
    results = [fresh.aidock("connect", client, *at) for client in clients]
    for client, result in zip(clients, results, strict=True):
        assert result.code == 0, client
        assert "https://llm.example.com/v1" in result.out
        assert "/v1/v1" not in result.out
        assert "AIDOCK_API_KEY" in result.out
        assert "aidock keys create" in result.err
    for index in (0, 6):
        compile(results[index].out, "hello.py", "exec")
    codex = tomllib.loads(results[7].out)
    assert codex["model_providers"][codex["model_provider"]]["wire_api"] == "responses"
    claude = fresh.ok("connect", "claude", *at).out
    assert "export ANTHROPIC_BASE_URL=https://llm.example.com\n" in claude, "its own clients add the version themselves"
    assert 'ANTHROPIC_AUTH_TOKEN="$AIDOCK_API_KEY"' in claude
    described = yaml.safe_load(results[2].out)["models"][0]
    assert (described["provider"], described["apiBase"]) == ("openai", "https://llm.example.com/v1")
    told = fresh.ok("connect", "node", "--json").json
    assert (told["client"], told["base_url"], told["model"]) == ("node", "http://127.0.0.1:8080/v1", "demo")
