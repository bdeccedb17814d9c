"""What is added by adding a file is found, complete, tested and documented."""

import importlib
import re
from pathlib import Path

import pytest

from gateway import plugins
from gateway.core.endpoint import Inference, Probe, Query
from gateway.core.ports import Policy, Provider

ROOT = Path(__file__).parent.parent
DATA_OR_WIRING = {
    "gateway/core/endpoint.py": "tests/endpoints: what an endpoint states",
    "gateway/core/principal.py": "tests/policies/test_model_access.py",
    "gateway/core/usage.py": "tests/providers/test_openai_answer.py",
    "gateway/core/records.py": "tests/ledger/test_frames.py",
    "gateway/core/ports.py": "protocols only; tests/contract holds their adapters to them",
    "gateway/core/upstream.py": "tests/upstream",
    "gateway/core/deployment.py": "tests/settings/test_compile.py",
    "gateway/core/limits.py": "tests/core/test_vocabulary.py",
    "gateway/core/credentials.py": "tests/settings/test_credentials.py",
    "gateway/conversations/connect.py": "tests/e2e/test_responses_continued.py",
    "gateway/core/responses.py": "tests/endpoints/test_responses_told.py",
    "gateway/idempotency/recording.py": "tests/idempotency/test_once.py",
    "gateway/quotas/patience.py": "tests/test_deciding.py",
    "gateway/core/sse.py": "tests/providers/test_openai_stream.py",
    "gateway/app.py": "tests/e2e",
    "gateway/background.py": "tests/e2e",
    "gateway/services.py": "tests/e2e",
    "gateway/control.py": "tests/e2e",
    "gateway/world.py": "tests/test_pipeline.py",
    "gateway/desk.py": "tests/endpoints/test_endpoints.py",
    "gateway/identity/credential.py": "tests/test_pipeline.py",
    "gateway/identity/holders.py": "tests/identity/test_caller_directory.py",
    "gateway/identity/limits.py": "tests/identity/test_caller_directory.py",
    "gateway/idempotency/connect.py": "tests/e2e/test_idempotency.py",
    "gateway/quotas/clock.py": "tests/quotas/test_memory_store.py",
    "gateway/quotas/dial.py": "tests/quotas/test_redis_link.py",
    "gateway/quotas/slots.py": "tests/contract/test_counter_store.py",
    "gateway/telemetry/instruments.py": "tests/telemetry/test_metrics.py",
    "gateway/telemetry/sharing.py": "tests/telemetry/test_metrics.py",
    "gateway/paths.py": "tests/settings/test_shipped_files.py",
}
"""Modules that no test file is named after, and what covers them."""

ROOMS_BY_BEHAVIOUR = (
    "gateway/admin/",  # tests/admin asks every route
    "gateway/cli/",  # tests/cli runs every command
    "gateway/endpoints/",  # tests/endpoints takes every one that there is
    "gateway/guard/",  # tests/guard speaks to it through sockets
    "gateway/upstream/",  # tests/upstream, through sockets too
    "gateway/ledger/",  # tests/ledger, through the journal's and the writer's verbs
    "gateway/settings/",  # tests/settings, through load and compile
    "gateway/storage/",  # tests/storage, through repositories
    "providers/_",  # helpers of the provider whose name they bear
    "policies/_",
)


def module_paths() -> list[str]:
    """Every module with code of its own, rooms by their name and single modules by theirs."""
    return sorted(
        str(path.relative_to(ROOT))
        for package in ("gateway", "providers", "policies")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )


def mentions(module: str, text: str) -> bool:
    """Whether a test imports the module, whole or in part."""
    name = module.removesuffix(".py").replace("/", ".")
    package, _, last = name.rpartition(".")
    direct = rf"(from|import) {re.escape(name)}\b"
    return bool(re.search(direct, text) or re.search(rf"from {re.escape(package)} import [^\n]*\b{last}\b", text))


def test_every_module_is_imported_by_a_test_or_named_with_what_covers_it() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    uncovered = [
        module
        for module in module_paths()
        if module not in DATA_OR_WIRING and not module.startswith(ROOMS_BY_BEHAVIOUR) and not mentions(module, tests)
    ]
    assert uncovered == []


def test_what_covers_a_module_is_there() -> None:
    for module, covers in DATA_OR_WIRING.items():
        assert (ROOT / module).exists(), f"{module} is gone"
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", covers):
            assert (ROOT / path).exists(), f"{path}, which covers {module}, is gone"
    for room in ROOMS_BY_BEHAVIOUR:
        covering = ROOT / "tests" / room.removeprefix("gateway/").partition("/")[0]
        assert any(covering.glob("test_*.py")), room


@pytest.mark.parametrize("package", ["providers", "policies"])
def test_every_plug_in_has_tests_and_a_heading_in_the_documents(package: str) -> None:
    document = ROOT / "docs" / f"{package}.md"
    if not document.exists():
        pytest.skip(f"{document.name} is not written yet")
    headings = set(re.findall(r"^#+ +`?(\w+)`?", document.read_text(), re.MULTILINE))
    for name in plugins.names(package):
        assert name in headings, f"docs/{package}.md has no heading for {name}"
        assert list((ROOT / "tests" / package).glob(f"test_{name}*.py")), f"{package}/{name}.py has no test file"


def test_every_policy_and_provider_fills_its_seam() -> None:
    for name in plugins.names("policies"):
        policy: Policy = plugins.policy(name, {})
        assert policy.name == name
    for dialect, provider in plugins.providers().items():
        made: Provider = provider
        assert dialect == made.dialect
        assert importlib.import_module(f"providers.{dialect}").PROVIDER is provider


def test_helpers_are_no_plug_ins() -> None:
    assert not [name for name in plugins.names("policies") | plugins.names("providers") if name.startswith("_")]
    assert plugins.modules("policies").keys() == plugins.names("policies")


def test_every_endpoint_has_a_path_and_a_name_of_its_own() -> None:
    endpoints = plugins.endpoints()
    assert len({(endpoint.method, endpoint.path) for endpoint in endpoints}) == len(endpoints)
    assert len({endpoint.name for endpoint in endpoints}) == len(endpoints)
    for endpoint in endpoints:
        assert endpoint.path.startswith("/")
        assert isinstance(endpoint, Probe) or endpoint.path.startswith("/v1/")
        assert isinstance(endpoint, Inference | Query | Probe)


def test_an_unknown_policy_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        plugins.policy("magic", {})
