"""The files of config/ are valid, complete, and say what the schema says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import paths, plugins
from gateway.core.credentials import EntraApp
from gateway.settings import shape
from gateway.settings.compile import compile_document
from gateway.settings.load import load
from gateway.settings.schema import PriceTable, Settings, VendorTable
from gateway.settings.show import effective, json_schema
from gateway.settings.tables import read_table
from tests.settings.configs import compiled, write

EXAMPLES = sorted(paths.config_file("examples").glob("*.yaml"))
REFERENCE = paths.config_file("aidock.yaml")


def uncommented() -> str:
    """The reference with every option taken out of its comment; prose keeps a space after the `#`."""
    return re.sub(r"^#(?=\S|  )", "", REFERENCE.read_text(), flags=re.MULTILINE)


def every_key(kind: Any, path: str = "") -> set[str]:
    keys: set[str] = set()
    for name, inner in shape.fields(kind).items():
        below = shape.child(inner, 0) if not shape.is_section(inner) else inner
        keys |= {f"{path}{name}"} | every_key(below, f"{path}{name}.")
    return keys


def keys_of(document: Any, kind: Any, path: str = "") -> set[str]:
    if isinstance(document, list):
        return set().union(*(keys_of(item, shape.child(kind, 0) or kind, path) for item in document))
    if not isinstance(document, dict):
        return set()
    if shape.is_mapping(kind):
        return set().union(*(keys_of(inner, shape.child(kind, 0), path) for inner in document.values()))
    known = shape.fields(shape.child(kind, 0)) or shape.fields(kind)
    keys = set()
    for name, inner in document.items():
        keys |= {f"{path}{name}"} | keys_of(inner, known.get(name), f"{path}{name}.")
    return keys


@pytest.mark.parametrize("path", [REFERENCE, paths.config_file("models.json"), *EXAMPLES], ids=lambda path: path.name)
def test_a_shipped_configuration_serves_as_it_stands(path: Path) -> None:
    snapshot = compile_document(
        load(path, {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-test", "GEMINI_API_KEY": "g-test"}, {}),
        version=1,
        known_policies=plugins.names("policies"),
        known_dialects=plugins.names("providers"),
        check_policy=plugins.policy,
    )
    assert snapshot.models


def test_every_option_of_the_reference_is_accepted_when_its_comment_is_taken_away(tmp_path: Path) -> None:
    files = {}
    for name in ("CA_FILE", "CLIENT_CERT", "CLIENT_KEY"):
        (tmp_path / name).write_text("pem")
        files[name] = str(tmp_path / name)
    account = {"client_email": "a@example.iam.gserviceaccount.com", "private_key": "pem", "project_id": "p"}
    (tmp_path / "vertex.json").write_text(json.dumps(account))
    files["VERTEX_KEY_FILE"] = str(tmp_path / "vertex.json")
    snapshot = compiled(write(tmp_path, uncommented()), {"OPENAI_API_KEY": "k", "OLLAMA_KEY": "k", **files})
    assert set(snapshot.models) == {"demo", "gpt-4o-mini", "gpt-4o", "pictures", "local-llama"}
    assert set(snapshot.upstreams) == {
        "demo",
        "openai",
        "azure",
        "azure-without-key",
        "bedrock",
        "vertex",
        "inhouse",
        "local-llama",
    }
    assert len(snapshot.limits) == 3
    assert snapshot.upstreams["inhouse"].quirks["drop"] == ("store",)


def test_azures_example_shows_how_to_go_without_a_key(tmp_path: Path) -> None:
    text = paths.config_file("examples/azure.yaml").read_text()
    path = write(tmp_path, re.sub(r"^  # (?= *[a-z_-]+:)", "  ", text, flags=re.MULTILINE))
    upstream = compiled(path, {"AZURE_CLIENT_SECRET": "s"}).upstreams["azure-entra"]
    assert isinstance(upstream.credential, EntraApp)
    assert (upstream.api_key, upstream.quirks["path"]) == (None, "openai")


def test_the_reference_names_every_option_there_is() -> None:
    told = keys_of(yaml.safe_load(uncommented()), Settings)
    told |= {"models.api_key"}  # beside api_key_env_var, of which it is the alternative
    missing = {key for key in every_key(Settings) if key not in told and not key.startswith("policies.")}
    assert missing == set()


def test_the_references_comments_state_the_real_defaults() -> None:
    defaults = effective(load(None, {}, {}))
    stated = yaml.safe_load(uncommented())
    for section in ("server", "storage"):
        assert {key: str(value) for key, value in stated[section].items()} == {
            key: str(int(value) if isinstance(value, float) and value.is_integer() else value)
            for key, value in defaults[section].items()
        }


def test_the_tables_are_valid_and_their_rows_unambiguous() -> None:
    vendors = read_table(VendorTable, paths.vendors_file()).vendors
    prices = read_table(PriceTable, paths.config_file("prices.yaml")).prices
    assert {row.vendor for row in prices} <= set(vendors)
    assert len({(row.vendor, row.model, row.since) for row in prices}) == len(prices)
    assert all(row.cached_input is None or row.cached_input <= row.input for row in prices)
    assert all(row.prices is None or row.prices in vendors for row in vendors.values())


def test_the_json_schema_describes_and_closes_every_section() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    json.dumps(schema)
    for name, section in [("Settings", schema), *schema["$defs"].items()]:
        assert section["additionalProperties"] is False, name
        for key, value in section["properties"].items():
            assert value.get("description"), f"{name}.{key}"
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert {"type": "string", "pattern": r"\$\{"} in schema["$defs"]["ServerSettings"]["properties"]["port"]["anyOf"]
