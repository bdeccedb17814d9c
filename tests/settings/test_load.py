"""Reading: YAML and JSON alike, placeholders, the environment, flags, and what stays as it was."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.settings.environment import env_or_file
from gateway.settings.load import load
from gateway.settings.problems import ConfigError
from gateway.settings.show import effective
from tests.settings.configs import compiled, write

YAML = """
timezone: Europe/Berlin
server: {port: 9000, drain_seconds: 2.5}
providers:
  up: {base_url: "http://127.0.0.1:9/v1", tls: {verify: true}, headers: {X-Team: "7"}}
models:
  - model_id: m\U0001f600
    display_name: "caf\u00e9 \\"one\\""
    provider: up
    price: [{input: 0.15, output: 0.60, from: "2026-01-01"}]
routes: {r: {targets: [{model: "m\U0001f600", weight: 2}]}}
policies: [quota, {rate_limit: {on_store_error: allow}}]
quotas: [{scope: global, metric: cost, limit: 12.5, window: month}]
"""
SAME = {
    "timezone": "Europe/Berlin",
    "server": {"port": 9000, "drain_seconds": 2.5},
    "providers": {"up": {"base_url": "http://127.0.0.1:9/v1", "tls": {"verify": True}, "headers": {"X-Team": "7"}}},
    "models": [
        {
            "model_id": "m\U0001f600",
            "display_name": 'caf\u00e9 "one"',
            "provider": "up",
            "price": [{"input": 0.15, "output": 0.60, "from": "2026-01-01"}],
        }
    ],
    "routes": {"r": {"targets": [{"model": "m\U0001f600", "weight": 2}]}},
    "policies": ["quota", {"rate_limit": {"on_store_error": "allow"}}],
    "quotas": [{"scope": "global", "metric": "cost", "limit": 12.5, "window": "month"}],
}


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_yaml_and_json_mean_the_same(indent: int | str | None, tmp_path: Path) -> None:
    from_yaml = compiled(write(tmp_path, YAML))
    from_json = compiled(write(tmp_path, json.dumps(SAME, indent=indent), "aidock.json"))
    assert from_yaml.hash == from_json.hash
    assert from_yaml.models.keys() == from_json.models.keys() == {"m\U0001f600"}
    assert load(tmp_path / "aidock.yaml", {}, {}).settings == load(tmp_path / "aidock.json", {}, {}).settings


@pytest.mark.parametrize(
    "text", ["", "\n# nothing\n", "---\n", "\ufeff", "server:\nproviders:\nmodels:\n", "{}", "null"]
)
def test_a_file_without_settings_is_the_embedded_default(text: str, tmp_path: Path) -> None:
    assert compiled(write(tmp_path, text)).hash == compiled(None).hash


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    assert compiled(write(tmp_path, "\ufeffserver:\r\n  port: 9000\r\n")).server.port == 9000


def test_anchors_and_merges_share_settings(tmp_path: Path) -> None:
    text = """
models:
  - &base {model_id: a, base_url: http://h/v1, idle_timeout: 7}
  - {<<: *base, model_id: b}
"""
    snapshot = compiled(write(tmp_path, text))
    assert snapshot.routes["b"].targets[0].deadlines.idle == 7
    assert snapshot.routes["b"].targets[0].upstream_model == "b"


def test_prices_are_read_as_written_and_never_as_floats(tmp_path: Path) -> None:
    text = "models: [{model_id: a, base_url: http://h/v1, price: {input: 0.1000000000000000055, output: 1e-6}}]"
    price = load(write(tmp_path, text), {}, {}).settings.models[0].price
    assert price is not None
    assert price[0].input == Decimal("0.1000000000000000055")
    assert price[0].output == Decimal("0.000001")


def test_placeholders_are_filled_and_read_as_what_their_place_calls_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    text = """
server: {port: "${P}", host: "${H:-127.0.0.2}", log_format: "${EMPTY:-json}"}
providers:
  up:
    base_url: http://${HOST_PART}.example:${P}/v1
    api_key: ${file:key}
    headers: {x-a: "$${literal} $5 ${EMPTY}"}
    tls: {verify: "${VERIFY}"}
models: [{model_id: a, provider: up}]
"""
    environ = {"P": "9000", "HOST_PART": "llm", "EMPTY": "", "VERIFY": "false"}
    snapshot = compiled(write(tmp_path, text), environ)
    upstream = snapshot.upstreams["up"]
    assert (snapshot.server.port, snapshot.server.host, snapshot.server.log_format) == (9000, "127.0.0.2", "json")
    assert upstream.base_url == "http://llm.example:9000/v1"
    assert upstream.api_key is not None
    assert upstream.api_key.reveal() == "sk-from-file"
    assert upstream.headers == {"x-a": "${literal} $5 "}
    assert upstream.tls.verify is False


def test_flag_outranks_environment_outranks_file_outranks_default(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {port: 1001, host: 127.0.0.9}")
    assert compiled(None).server.port == 8080
    assert compiled(path).server.port == 1001
    assert compiled(path, {"PORT": "1002"}).server.port == 1002
    assert compiled(path, {"PORT": "1002", "AIDOCK_SERVER__PORT": "1003"}).server.port == 1003
    assert compiled(path, {"AIDOCK_SERVER__PORT": "1003"}, server__port=1004).server.port == 1004
    assert compiled(path, {}, server__port=None).server.port == 1001
    assert compiled(path, {"PORT": "1002"}).server.host == "127.0.0.9"


def test_the_environment_reaches_every_depth(tmp_path: Path) -> None:
    path = write(tmp_path, "providers: {Open-AI: {base_url: http://h/v1}}\nmodels: [{model_id: a, provider: Open-AI}]")
    environ = {
        "AIDOCK_PROVIDERS__OPEN_AI__API_KEY": "sk-env",
        "AIDOCK_PROVIDERS__OPEN_AI__TLS__VERIFY": "no",
        "AIDOCK_TIMEZONE": "Europe/Paris",
        "AIDOCK_POLICIES": "[quota, {rate_limit: {on_store_error: deny}}]",
        "AIDOCK_DATA": "/srv/aidock",
        "REDIS_URL": "redis://r/0",
    }
    snapshot = compiled(path, environ)
    key = snapshot.upstreams["Open-AI"].api_key
    assert key is not None
    assert key.reveal() == "sk-env"
    assert snapshot.upstreams["Open-AI"].tls.verify is False
    assert snapshot.zone.key == "Europe/Paris"
    assert [entry.name for entry in snapshot.policies] == ["quota", "rate_limit"]
    assert snapshot.policies[1].settings == {"on_store_error": "deny"}
    assert snapshot.storage.database_url == "sqlite:////srv/aidock/aidock.db"
    assert snapshot.storage.counters == "redis://r/0"
    assert compiled(None, {"DATABASE_URL": "postgres://u:p@h/d"}).storage.database_url == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AIDOCK_SERVER__PORT", "high", "AIDOCK_SERVER__PORT: server.port: must be a whole number"),
        ("PORT", "99999", "PORT: server.port: must be at most 65535"),
        ("AIDOCK_SERVER__PROT", "1", "AIDOCK_SERVER__PROT: no such setting (did you mean 'AIDOCK_SERVER__PORT'?)"),
        ("AIDOCK_SERVER_PORT", "1", "AIDOCK_SERVER_PORT: no such setting (did you mean 'AIDOCK_SERVER__PORT'?)"),
        (
            "AIDOCK_SERVER__PORT__X",
            "1",
            "AIDOCK_SERVER__PORT__X: no such setting (did you mean 'AIDOCK_SERVER__PORT'?)",
        ),
        ("AIDOCK_QUOTAS", "[{scope: globl}", "AIDOCK_QUOTAS:2:1: syntax: did not find expected ',' or ']'"),
    ],
)
def test_a_bad_variable_is_a_problem_that_names_it(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(None, {name: value})
    assert str(caught.value).startswith(said)


def test_a_variable_that_is_no_setting_is_left_alone() -> None:
    environ = {
        "AIDOCK_CONFIG": "x",
        "AIDOCK_INIT_ADMIN_PASSWORD": "x",
        "AIDOCK_INIT_ADMIN_PASSWORD_FILE": "x",
        "AIDOCK_SECRET_KEY": "x",
        "AIDOCK_API_KEY": "x",
        "AIDOCK_PORT": "tcp://10.0.0.1:8080",
        "AIDOCK_SERVICE_HOST": "10.0.0.1",
        "AIDOCK_PORT_8080_TCP_PROTO": "tcp",
        "AIDOCKER": "x",
    }
    assert compiled(None, environ).hash == compiled(None).hash


def test_a_variable_or_its_file_twin_but_not_both(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    file = str(tmp_path / "secret")
    assert env_or_file({}, "AIDOCK_INIT_API_KEY") is None
    assert env_or_file({"AIDOCK_INIT_API_KEY": "plain"}, "AIDOCK_INIT_API_KEY") == "plain"
    assert env_or_file({"AIDOCK_INIT_API_KEY_FILE": file}, "AIDOCK_INIT_API_KEY") == "s3cret"
    with pytest.raises(ConfigError, match="AIDOCK_INIT_API_KEY_FILE: AIDOCK_INIT_API_KEY is set too"):
        env_or_file({"AIDOCK_INIT_API_KEY": "plain", "AIDOCK_INIT_API_KEY_FILE": file}, "AIDOCK_INIT_API_KEY")
    with pytest.raises(ConfigError, match="cannot be read"):
        env_or_file({"AIDOCK_INIT_API_KEY_FILE": file + "x"}, "AIDOCK_INIT_API_KEY")


def test_what_is_in_force_can_be_shown_and_loaded_again(tmp_path: Path) -> None:
    document = load(write(tmp_path, YAML.replace('headers: {X-Team: "7"}', "max_retries: 2")), {}, {})
    again = load(write(tmp_path, json.dumps(effective(document)), "again.json"), {}, {})
    assert again.settings.models == document.settings.models
    assert again.settings.server == document.settings.server
    assert again.settings.policies == document.settings.policies
