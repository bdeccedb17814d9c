"""A gateway before a fake of Azure, reached by key and by token, on dated paths and undated ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.dialects import azure
from tests.support.dialects.azure import Azure
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, running_gateway

PRICE = {"input": 1.0, "output": 2.0, "cached_input": 0.5}
COST = 8 + 4 // 2 + 2 * 5
"""What `azure.USAGE` costs, in millionths of a dollar."""


@dataclass
class Stage:
    gateway: Gateway
    fake: Azure
    upstream: Served

    async def row(self, request_id: str | None) -> dict[str, Any]:
        assert request_id
        return await self.gateway.row(request_id)


@contextmanager
def azure_stage(directory: Path) -> Iterator[Stage]:
    fake = Azure()
    with served(fake) as upstream, running_gateway(directory, _config(upstream.url)) as gateway:
        yield Stage(gateway, fake, upstream)


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _config(url: str) -> dict[str, Any]:
    auth = {
        "kind": "entra",
        "tenant_id": azure.TENANT,
        "client_id": azure.CLIENT,
        "client_secret": azure.SECRET,
        "authority": url,
    }
    place = {"vendor": "azure", "base_url": url, "api_version": azure.VERSION}
    quick = {"max_retries": 0, "first_byte_timeout": 2, "idle_timeout": 2, "cooldown": {"failures": 0}}
    model = {"upstream_model": azure.DEPLOYMENT, "price": PRICE}
    return {
        "providers": {
            "keyed": {**place, "api_key": azure.KEY, **quick},
            "wrong-key": {**place, "api_key": "azure-another-key", **quick},
            "entra": {**place, "auth": auth, **quick},
            "chat-only": {**place, "api_key": azure.KEY, "quirks": {"operations": []}, **quick},
            "v1": {**place, "base_url": f"{url}/openai/v1", "auth": auth, **quick, "max_retries": 1},
            "stolen": {**place, "auth": {**auth, "client_secret": "guessed"}, **quick},
        },
        "models": [
            {"model_id": "dated", "provider": "keyed", **model},
            {"model_id": "by-token", "provider": "entra", **model},
            {"model_id": "undated", "provider": "v1", **model},
            {"model_id": "ours/with slash", "provider": "keyed", **model},
            {"model_id": "chat-only", "provider": "chat-only", **model},
            {"model_id": "missing", "provider": "keyed", "upstream_model": "gone"},
            {"model_id": "locked", "provider": "wrong-key", **model},
            {"model_id": "on-stolen", "provider": "stolen", **model},
        ],
        "routes": {"either": {"targets": [{"model": "on-stolen"}], "fallbacks": ["dated"]}},
    }
