"""The example package, installed as its reader would and used by a real gateway."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.billing_upstream import Plan, billing_upstream
from tests.support.gateway import ROOT, running_gateway

EXAMPLE = ROOT / "config" / "examples" / "extension"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed, built from a copy."""
    directory = tmp_path_factory.mktemp("extension")
    source = shutil.copytree(EXAMPLE, directory / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(directory / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "site"


def aidock(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "config", "check", str(config)]
    environ = {"PYTHONPATH": f"{site}:{ROOT}", "PATH": "/usr/bin:/bin", "AIDOCK_DATA": str(config.parent / "data")}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=config.parent, env=environ)


async def test_a_policy_and_a_dialect_of_another_package_serve_like_our_own(installed: Path, tmp_path: Path) -> None:
    with billing_upstream() as upstream:
        config = {
            "providers": {"acme": {"dialect": "acme", "base_url": f"http://127.0.0.1:{upstream.port}/v1"}},
            "models": [{"model_id": "large", "provider": "acme"}],
            "policies": ["model_access", {"office_hours": {"first": 0, "last": 24}}],
        }
        with running_gateway(tmp_path, config, environ={"PYTHONPATH": f"{installed}:{ROOT}"}) as gateway:
            body = {"model": "large", "messages": [{"role": "user", "content": Plan().text("n1")}]}
            answer = await gateway.ask("/v1/chat/completions", body)
            assert answer.status_code == 200
            assert answer.headers["x-aidock-provider"] == "acme"


async def test_a_refusal_of_theirs_reaches_the_caller(installed: Path, tmp_path: Path) -> None:
    config = {"policies": ["model_access", {"office_hours": {"first": 0, "last": 0}}]}
    with running_gateway(tmp_path, config, environ={"PYTHONPATH": f"{installed}:{ROOT}"}) as gateway:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await gateway.ask("/v1/chat/completions", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "outside_office_hours")


def test_a_setting_that_they_refuse_is_refused_with_its_place(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "aidock.yaml"
    config.write_text("policies:\n  - office_hours: {first: 25}\n")
    done = aidock(config, installed)
    assert done.returncode == 78
    assert "aidock.yaml:2" in done.stderr
    assert "must be hours from 0 to 24" in done.stderr


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("quota", "acme_aidock.office_hours:create", "adds 'quota' to policies, which AI Dock itself has"),
        ("broken", "acme_aidock.nowhere:create", "'broken' of the package acme-aidock cannot be loaded"),
    ],
)
def test_an_extension_that_cannot_be_used_is_named(
    installed: Path, tmp_path: Path, name: str, target: str, says: str
) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_text(f"[aidock.policies]\n{name} = {target}\n")
    config = tmp_path / "aidock.yaml"
    config.write_text(f"policies: [{name}]\n")
    done = aidock(config, site)
    assert done.returncode == 78
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_documents_show_is_the_examples_own() -> None:
    shown = (ROOT / "docs" / "configuration.md").read_text().partition("```toml\n")[2].partition("```")[0]
    assert shown.strip() in (EXAMPLE / "pyproject.toml").read_text()
