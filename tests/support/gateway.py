"""A real gateway: `python -m gateway serve` in a process of its own, with data of its own, on 127.0.0.1.

    with running_gateway(directory, config) as gateway:
        answer = await gateway.ask("/v1/chat/completions", chat("Hello"))
        row = await gateway.row(answer.headers["x-request-id"])

What it wrote to its ledger is read from its database, what it counted from `/metrics`, what it logged from a file.
Gateways that share a PostgreSQL database and Redis counters share a key and a secret too: `key` and `AIDOCK_SECRET`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.limits import Limit
from gateway.identity.keys import new_key
from gateway.identity.pepper import load_pepper
from gateway.storage import quotas
from gateway.storage.engine import Database
from tests.support.database import issue_key
from tests.support.processes import children, free_port
from tests.support.until import until

ROOT = Path(__file__).parent.parent.parent
START_S = 30.0
STOP_S = 20.0
SEEN_S = 5.0
"""How soon a running gateway sees what was changed beside it."""

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


class AccountingUnavailable(AssertionError):
    """The gateway cannot say now what its counters say."""


class Gateway:
    """`key` belongs to the administrator of the first start. `config` is None for the embedded default, else a
    document that is written to `config_file`. `program` is what runs instead of the gateway, and takes its arguments;
    `data` is where the gateway keeps its things, below `directory` unless told."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
        data: Path | None = None,
        program: Sequence[str] = ("-m", "gateway"),
    ) -> None:
        self.directory = directory
        self.data = data or directory / "data"
        self.config_file = directory / "aidock.yaml"
        self.port = free_port()
        self.key = key or new_key().text.reveal()
        self.database_url = ((config or {}).get("storage") or {}).get("database") or f"sqlite:///{self.data}/aidock.db"
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._program = program
        self._environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._environ |= {"AIDOCK_DATA": str(self.data), "AIDOCK_INIT_API_KEY": self.key}
        self._environ |= {"AIDOCK_SERVER__DRAIN_NOTICE": "0", **(environ or {})}
        directory.mkdir(parents=True, exist_ok=True)
        if config is not None:
            self.write_config(config)
            self._environ["AIDOCK_CONFIG"] = str(self.config_file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # Its life

    def start(self) -> None:
        """Start, and return when it is ready. Ready again after a stop, on the same port and data."""
        log, words = self.directory / "log", self.directory / "stderr"
        said = words.stat().st_size if words.exists() else 0
        with log.open("ab") as stdout, words.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "serve", "--port", str(self.port)],
                cwd=ROOT,
                env=self._environ,
                stdout=stdout,
                stderr=stderr,
            )
        self.exit_code = None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self.exit_code = self._process.returncode
                raise AssertionError(f"the gateway ended with {self.exit_code}: {words.read_text()[said:]}")
            if b" ready in " in words.read_bytes()[said:]:
                return
            time.sleep(0.02)
        self.kill()
        raise AssertionError("the gateway did not become ready")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def workers(self) -> list[int]:
        """The ids of its worker processes; none where it serves alone."""
        return [pid for pid in children(self.pid) if b"spawn_main" in _command_line(pid)]

    def wait(self, within_s: float = STOP_S) -> int:
        """The exit code, once it has ended."""
        assert self._process is not None
        self.exit_code = self._process.wait(within_s)
        return self.exit_code

    async def ended(self, within_s: float = STOP_S) -> int:
        """As `wait`, while the test's own tasks go on."""
        return await asyncio.to_thread(self.wait, within_s)

    def stop(self) -> int:
        """Drain and end; the exit code."""
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a power cut would. Workers, if there are any, notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    # Beside it

    def write_config(self, config: Mapping[str, Any] | str) -> None:
        """Replace the configuration file at once, as an editor that saves does."""
        text = config if isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False)
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config_file)

    async def cli(self, *arguments: str, check: bool = True) -> str:
        """Run a command beside it; what it printed on stdout."""
        code, out, words = await self._run(*arguments)
        assert not check or code == 0, words
        return out

    async def _run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            cwd=ROOT,
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, words = await process.communicate()
        return process.returncode, out.decode(), words.decode()

    async def reconcile(self, *arguments: str, within_s: float = 20.0) -> dict[str, Any]:
        """What `aidock reconcile` says once calls that are still on their way had time to arrive: that the books
        agree."""
        code, out, words = await self._run("reconcile", "--json", "--wait", f"{within_s:g}", *arguments)
        assert code == 0, f"the books do not agree: {out}{words}"
        found: dict[str, Any] = json.loads(out)
        return found

    async def issue(
        self,
        user: str = "ada@example.com",
        *,
        department: str = "research",
        models: list[str] | None = None,
        expires_at: float | None = None,
    ) -> str:
        """A new key; its user and department are made when they are not there."""
        database = self._database()
        try:
            return await issue_key(
                database, self._pepper(), user=user, department=department, models=models, expires_at=expires_at
            )
        finally:
            await database.close()

    async def limit(self, key: str, *limits: Limit) -> None:
        """Set limits by hand, and return when they bind the key's holder."""
        await self.set_limits(*limits)
        await self.bound(key, *limits)

    async def set_limits(self, *limits: Limit) -> None:
        """Set limits by hand; gateways follow."""
        database = self._database()
        try:
            async with database.write() as session:
                for limit in limits:
                    await quotas.put(session, limit)
        finally:
            await database.close()

    async def bound(self, key: str, *limits: Limit) -> None:
        """Return when limits bind the key's holder."""
        wanted = {(limit.metric, limit.window) for limit in limits}

        async def bound() -> bool:
            return wanted <= (await self.me(key))["limits"].keys()

        await until(bound, SEEN_S)

    def _database(self) -> Database:
        return Database.open(self.database_url, self.data)

    def _pepper(self) -> Any:
        return load_pepper(self._environ, self.data)

    # What it says

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client with a key: the administrator's unless told."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        options = {"timeout": 30, "trust_env": False, "verify": False, **options}  # reading certificates is slow
        return httpx.AsyncClient(base_url=self.url, headers=headers, **options)

    async def ask(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request on a connection of its own: a POST when there is a body. The body is JSON, or bytes as given."""
        async with self.client(key) as client:
            if body is None:
                return await client.get(path, headers=headers)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.post(
                path, content=content, headers={"content-type": "application/json", **(headers or {})}
            )

    async def me(self, key: str | None = None) -> dict[str, Any]:
        """`/v1/me`, its limits by metric and window: of several that share those the last."""
        me = await self._me(key)
        me["limits"] = {(limit["metric"], limit["window"]): limit for limit in me["limits"]}
        return me

    async def limits_of(self, key: str | None = None) -> list[dict[str, Any]]:
        """Every limit of `/v1/me`."""
        limits: list[dict[str, Any]] = (await self._me(key))["limits"]
        return limits

    async def _me(self, key: str | None) -> dict[str, Any]:
        answer = await self.ask("/v1/me", key=key)
        if answer.status_code == 503 and answer.json()["error"]["code"] == "accounting_unavailable":
            raise AccountingUnavailable(answer.text)
        assert answer.status_code == 200, answer.text
        me: dict[str, Any] = answer.json()
        return me

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return sum(
            value
            for sample, found, value in await self.samples()
            if sample == name and all(found.get(label) == wanted for label, wanted in labels.items())
        )

    async def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Every sample of `/metrics`."""
        text = (await self.ask("/metrics")).text
        return [
            (sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def log(self) -> list[dict[str, Any]]:
        """The lines logged so far."""
        lines = (self.directory / "log").read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def errors(self) -> list[dict[str, Any]]:
        """Lines that a healthy gateway does not log: errors, and anything with a trace."""
        return [
            line for line in self.log() if line["log.level"] in ("error", "critical") or "error.stack_trace" in line
        ]

    # Its ledger

    def rows(self, where: str = "1 = 1", *values: object) -> list[dict[str, Any]]:
        """Ledger rows as they are now."""
        return self._select(f"SELECT * FROM ledger WHERE {where} ORDER BY request_id, kind", *values)

    def daily_sums(self) -> dict[str, Any]:
        """What the daily sums, which reports are made of, add up to."""
        names = ("requests", "refunds", "prompt_tokens", "completion_tokens", "cost_microusd")
        (sums,) = self._select(f"SELECT {', '.join(f'sum({name}) AS {name}' for name in names)} FROM usage_daily")
        return sums

    def _select(self, query: str, *values: object) -> list[dict[str, Any]]:
        if self.database_url.startswith("postgresql"):
            with concurrent.futures.ThreadPoolExecutor(1) as beside:  # a loop of its own, whoever asks
                return beside.submit(asyncio.run, _postgres_rows(self.database_url, query, values)).result()
        path = self.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    async def row(self, request_id: str) -> dict[str, Any]:
        """The one row of a call, once it is there."""
        await until(lambda: bool(self.rows("request_id = ?", request_id)))
        (row,) = self.rows("request_id = ?", request_id)
        return row

    async def last_row(self, user: str) -> dict[str, Any]:
        """The row of the only call a user has made, once it is there."""
        await until(lambda: bool(self.rows("user = ?", user)))
        (row,) = self.rows("user = ?", user)
        return row

    async def quiet(self) -> None:
        """Return when no call runs and every outcome is in the ledger."""

        async def at_rest() -> bool:
            counted = dict.fromkeys(("aidock_inflight_requests", "aidock_journal_depth"), 0.0)
            for name, _, value in await self.samples():
                if name in counted:
                    counted[name] += value
            return not any(counted.values())

        await until(at_rest)


async def _postgres_rows(url: str, query: str, values: Sequence[object]) -> list[dict[str, Any]]:
    numbers = itertools.count(1)
    query = re.sub(r"\?", lambda _: f"${next(numbers)}", query)
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [dict(row) for row in await connection.fetch(query, *values)]
    finally:
        await connection.close()


def _command_line(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def running_gateway(
    directory: Path, config: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """A started gateway, stopped at the end; its exit must be clean."""
    gateway = Gateway(directory, config, environ)
    gateway.start()
    try:
        yield gateway
    finally:
        _stop_cleanly(gateway)


@contextmanager
def running_gateways(*gateways: Gateway) -> Iterator[None]:
    """Several gateways, started one after the other; those that still run at the end are stopped, and end cleanly."""
    with ExitStack() as stack:
        for gateway in gateways:
            gateway.start()
            stack.callback(_stop_cleanly, gateway)
        yield


def _stop_cleanly(gateway: Gateway) -> None:
    if gateway.exit_code is None:
        assert gateway.stop() == 0


def chat(text: str = "Hello", model: str = "demo", **members: Any) -> dict[str, Any]:
    """A chat completion's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}
