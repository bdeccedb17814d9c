"""What `aidock connect` prints for programs runs as it is printed, with nothing but the key in the environment."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

import pytest

from tests.clients.installed import HERE, node_with_packages, python_with_packages
from tests.support.gateway import Gateway, running_gateway

pytestmark = pytest.mark.timeout(600)  # what it needs is installed first


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("connect")) as running:
        yield running


def interpreter(client: str) -> list[str]:
    """What runs a text on its stdin."""
    match client:
        case "node":
            return [node_with_packages(), "--input-type=module", "-"]
        case "langchain":
            return [python_with_packages(), "-"]
        case "python":
            return [sys.executable, "-"]
    return ["bash", "-s"]


@pytest.mark.parametrize("client", ["python", "node", "curl", "langchain"])
async def test_it_runs(gateway: Gateway, client: str) -> None:
    text = await gateway.cli("connect", client, "--base-url", gateway.url)
    process = await asyncio.create_subprocess_exec(
        *interpreter(client),
        cwd=HERE,  # where Node finds its packages
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), "AIDOCK_API_KEY": gateway.key},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, words = await process.communicate(text.encode())
    assert process.returncode == 0, words.decode()
    assert b"demo" in out
    assert b"Hello" in out
