"""Gateways that whole files of tests share. Each test brings users of its own, so none sees another's rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.misbehaving import Misbehaving, Step
from tests.support.processes import free_port

UPSTREAM_KEY = "sk-upstream-key-0123456789abcdef"
IMPATIENT: dict[str, Any] = {"first_byte_timeout": 0.3, "idle_timeout": 0.3}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The embedded default: SQLite, in-process counters, the built-in model, no configuration."""
    with running_gateway(tmp_path_factory.mktemp("demo")) as gateway:
        yield gateway


@dataclass
class Proxying:
    """A gateway before upstreams that a test plays itself, on the ports that its configuration names.

    Models: `priced` and `spare`, one upstream each; `impatient`, `draining`, `repeated` and `azure`, which are `priced`
    with other settings; `dead`, where nobody listens. Routes: `failover` is `dead`, else `priced`; `pair` is `priced`,
    else `spare`; so is `careful`, but not where `priced` may have worked on the call.
    """

    gateway: Gateway
    port: int
    spare_port: int
    _users: Iterator[int] = field(default_factory=itertools.count)

    def upstream(self, *scripts: list[Step]) -> Misbehaving:
        return Misbehaving(*scripts, port=self.port)

    def spare(self, *scripts: list[Step]) -> Misbehaving:
        return Misbehaving(*scripts, port=self.spare_port)

    async def ask(self, model: str = "priced", **members: Any) -> httpx.Response:
        """A chat completion; a streamed one is read to its end, however it ends."""
        return await self.gateway.ask("/v1/chat/completions", chat(model=model, **members))

    async def row_of(self, answer: httpx.Response) -> dict[str, Any]:
        return await self.gateway.row(answer.headers["x-request-id"])

    async def new_user(self) -> tuple[str, str]:
        """A user who has not called yet, and a key of theirs."""
        user = f"user{next(self._users)}@example.com"
        return user, await self.gateway.issue(user)


@pytest.fixture(scope="session")
def proxying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxying]:
    port, spare, dead = free_port(), free_port(), free_port()
    price = {"input": 1.0, "output": 2.0, "cached_input": 0.5}
    main = {"provider": "main", "upstream_model": "vendor-model", "price": price}

    def provider(at: int, **settings: Any) -> dict[str, Any]:
        usual = {"api_key": UPSTREAM_KEY, "max_retries": 0, "cooldown": {"failures": 0}}
        return {"base_url": f"http://127.0.0.1:{at}/v1", **usual, **settings}

    azure = provider(port, base_url=f"http://127.0.0.1:{port}", api_version="2024-10-21")
    azure["quirks"] = {"path": "azure", "auth": "api-key"}
    config = {
        "providers": {"main": provider(port), "spare": provider(spare), "dead": provider(dead), "azure": azure},
        "models": [
            {"model_id": "priced", **main},
            {"model_id": "impatient", **main, **IMPATIENT},
            {"model_id": "draining", **main, "on_client_gone": "drain"},
            {"model_id": "repeated", **main, "max_retries": 2},
            {"model_id": "spare", "provider": "spare", "price": price},
            {"model_id": "dead", "provider": "dead"},
            {"model_id": "azure", "provider": "azure", "upstream_model": "my deployment"},
        ],
        "routes": {
            "failover": {"targets": [{"model": "dead"}], "fallbacks": ["priced"]},
            "pair": {"targets": [{"model": "priced"}], "fallbacks": ["spare"]},
            "careful": {"targets": [{"model": "priced"}], "fallbacks": {"default": ["spare"], "error": []}},
        },
    }
    with running_gateway(tmp_path_factory.mktemp("proxying"), config) as gateway:
        yield Proxying(gateway, port, spare)
