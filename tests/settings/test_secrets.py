"""A secret that a configuration holds is never shown: not by repr, not by an error, not by `show`."""

import json
import logging
from pathlib import Path

import pytest

from gateway.settings.load import load
from gateway.settings.problems import ConfigError
from gateway.settings.show import effective
from gateway.settings.watch import Reloader
from tests.settings.configs import compiled, source, write

SECRET = "sk-proj-hunter2hunter2hunter2-a1b2"
FULL = """
storage: {database: "postgresql://u:${S}@h/d", counters: "redis://:${S}@h/0"}
providers:
  up: {base_url: http://h/v1, api_key: "${S}", headers: {authorization: "Basic ${S}"}}
models:
  - {model_id: a, provider: up}
  - {model_id: b, base_url: http://h/v1, api_key: "${S}"}
policies: [{quota: {on_store_error: "${S}"}}]
"""


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    document = load(path, {"S": SECRET}, {})
    snapshot = compiled(path, {"S": SECRET})
    for thing in (document, document.settings, snapshot, source(path, {"S": SECRET}), *document.settings.models):
        assert SECRET not in repr(thing)
        assert SECRET not in str(thing)
    key = snapshot.upstreams["up"].api_key
    assert key is not None
    assert key.reveal() == SECRET


def test_the_effective_configuration_masks_them(tmp_path: Path) -> None:
    shown = effective(load(write(tmp_path, FULL), {"S": SECRET}, {}))
    assert "hunter2" not in json.dumps(shown)
    assert shown["providers"]["up"]["api_key"] == "sk-…a1b2"
    assert shown["storage"]["database"] == "postgresql://u:sk-…a1b2@h/d"
    assert effective(load(write(tmp_path, FULL), {"S": "short"}, {}))["providers"]["up"]["api_key"] == "…"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:6379/0", "redis://:…@h:6379/0"),
        ("redis://h:6379/0?password=hunter2", "redis://h:6379/0?password=…"),
        (
            "rediss+sentinel://u:hunter2@a,b/main/0?sentinel_password=hunter2&ssl_ca_certs=/etc/ca.pem",
            "rediss+sentinel://u:…@a,b/main/0?sentinel_password=…&ssl_ca_certs=…",
        ),
        ("rediss://user@h/0", "rediss://user@h/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis://u:hunter2@odd@h/0", "redis://u:…@h/0"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert effective(load(None, {"REDIS_URL": url}, {}))["storage"]["counters"] == shown


@pytest.mark.parametrize(
    "text",
    [
        "timezone: '${S}'",
        "server: {port: '${S}'}",
        "server: {log_format: '${S}'}",
        "storage: {database: '${S}'}",
        "storage: {counters: '${S}'}",
        "providers: {a: {base_url: '${S}'}}",
        "providers: {a: {base_url: 'http://u:${S}@h/v1'}}",
        "providers: {a: {dialect: '${S}', base_url: http://h}}",
        "providers: {a: {vendor: '${S}'}}",
        "providers: {a: {base_url: http://h/v1, api_key: '${S} ${S}'}}",
        "providers: {a: {base_url: http://h/v1, api_key_env_var: '${S}'}}",
        "providers: {a: {base_url: http://h/v1, headers: {a: '${S}\\n\u00e9'}, tls: {ca_file: '${S}'}}}",
        "models: [{model_id: a, provider: '${S}'}]",
        "routes: {a: {targets: [{model: '${S}'}]}}",
        "policies: ['${S}']",
        "quotas: [{scope: '${S}', metric: '${S}', limit: '${S}', window: '${S}'}]",
        "quotas: [{scope: model, subject: '${S}', metric: parallel, limit: 1}]",
    ],
)
def test_no_error_quotes_one(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(write(tmp_path, text), {"S": SECRET})
    told = [str(caught.value), repr(caught.value), *map(repr, caught.value.problems)]
    assert not any("hunter2" in words for words in told)
    assert caught.value.__cause__ is None


def test_a_key_written_where_a_variables_name_belongs_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(write(tmp_path, f"models: [{{model_id: a, base_url: http://h/v1, api_key_env_var: {SECRET}}}]"))
    assert "hunter2" not in str(caught.value)


def test_a_bad_override_from_the_environment_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(None, {"AIDOCK_SERVER__LOG_FORMAT": SECRET, "AIDOCK_PROVIDERS__A__VENDOR": SECRET})
    assert "AIDOCK_SERVER__LOG_FORMAT" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_log_of_a_refused_reload_does_not_hold_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "server: {}")
    reloader = Reloader(source(path, {"S": SECRET}))
    write(tmp_path, "timezone: '${S}'")
    with caplog.at_level(logging.DEBUG):
        assert not reloader.reload()
    assert "timezone" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_changed_secret_changes_the_hash_but_not_by_showing_it(tmp_path: Path) -> None:
    path = write(tmp_path, FULL.replace('policies: [{quota: {on_store_error: "${S}"}}]', ""))
    assert compiled(path, {"S": SECRET}).hash != compiled(path, {"S": SECRET + "x"}).hash
    assert compiled(path, {"S": SECRET}).hash == compiled(path, {"S": SECRET, "OTHER": "1"}).hash
