"""The documents name what the program has, all of it and nothing else, and their links lead somewhere."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import plugins
from gateway.cli import _COMMANDS
from gateway.guard import GuardLimits
from gateway.settings.environment import SHORTHANDS
from gateway.settings.schema import ServerSettings
from gateway.telemetry.metrics import Metrics
from tests.docs.test_examples import PAGES
from tests.support.gateway import ROOT

OPERATIONS = (ROOT / "docs/operations.md").read_text()
_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<heading>[^)]*))?\)")


def test_the_metrics_table_has_every_metric_and_no_other() -> None:
    text = Metrics("0").exposition()[0].decode()
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("aidock_") and not family.name.endswith("_created")
    }
    assert names
    assert set(re.findall(r"^\| `(aidock_\w+)`", OPERATIONS, re.MULTILINE)) == names
    assert set(re.findall(r"aidock_\w+", OPERATIONS)) == names


def test_every_variable_that_sets_something_is_in_the_table() -> None:
    table = OPERATIONS.partition("## Environment variables")[2]
    assert {name for name in SHORTHANDS if f"`{name}`" not in table} == set()


def test_every_policy_and_every_provider_has_a_heading() -> None:
    policies = (ROOT / "docs/policies.md").read_text()
    providers = (ROOT / "docs/providers.md").read_text()
    assert [name for name in plugins.names("policies") if f"\n## {name}\n" not in policies] == []
    assert [name for name in plugins.names("providers") if f"\n## {name}\n" not in providers] == []


def test_a_policys_settings_are_told_with_their_defaults() -> None:
    page = (ROOT / "docs/policies.md").read_text()
    for name, module in plugins.modules("policies").items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        told = dict(re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|", section, re.MULTILINE))
        documented = dict(re.findall(r"`(\w+)` \((\w+)\)", module.create.__doc__))
        assert told == documented, name


def test_the_bounds_on_a_client_are_those_of_the_guard() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    guard = {field.name: field.default for field in fields(GuardLimits)}
    server = ServerSettings()
    for name in ("header_timeout", "body_timeout", "write_timeout"):
        assert getattr(server, name) == guard[name]
        assert f"`{name}`, {guard[name]:g} s" in page
    assert server.max_body_bytes == guard["max_body_bytes"]
    assert f"`max_body_bytes`, {server.max_body_bytes >> 20} MiB" in page
    assert f"{guard['max_header_bytes'] >> 10} KiB, {guard['max_headers']} headers" in page
    assert f"request target | {guard['max_target_bytes'] >> 10} KiB" in page
    assert f"`max_inflight`, {server.max_inflight}" in page


def test_the_changelog_names_every_command() -> None:
    page = (ROOT / "CHANGELOG.md").read_text()
    assert [name for name in _COMMANDS if not re.search(rf"`(aidock )?{name}\b", page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    home = (ROOT / page).parent
    for link in _LINK.finditer((ROOT / page).read_text()):
        target = home / link["path"] if link["path"] else ROOT / page
        assert target.exists(), link[0]
        if link["heading"]:
            assert link["heading"] in _anchors(target), link[0]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_decisions_are_numbered_without_gaps_and_short() -> None:
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {int(record.name[:4])}. ")
        assert len(text.splitlines()) <= 40, record.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], record.name
