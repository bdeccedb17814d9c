import json
from pathlib import Path

import pytest

from gateway.core.credentials import AwsKeys, EntraApp, ServiceAccount
from gateway.core.secret import Secret
from gateway.settings.problems import ConfigError
from tests.settings.configs import compiled, write

MODEL = "models: [{model_id: m, provider: p}]\n"
DIALECTS = {"aws": "bedrock", "entra": "openai", "service_account": "gemini"}


def _upstream(tmp_path: Path, auth: str, environ: dict[str, str] | None = None):
    dialect = next((it for kind, it in DIALECTS.items() if kind in auth), "openai")
    text = MODEL + f"providers: {{p: {{dialect: {dialect}, base_url: https://llm.example.com/v1, auth: {auth}}}}}\n"
    return compiled(write(tmp_path, text), environ or {}).upstreams["p"]


def test_aws_keys_are_kept_where_they_cannot_be_printed(tmp_path: Path) -> None:
    auth = "{kind: aws, region: eu-west-1, access_key_id: AKIA, secret_access_key: '${AWS}', session_token: t0k}"
    upstream = _upstream(tmp_path, auth, {"AWS": "s3cret"})
    assert upstream.credential == AwsKeys("eu-west-1", "AKIA", Secret("s3cret"), Secret("t0k"))
    assert "s3cret" not in repr(upstream)


def test_an_entra_application_has_microsofts_addresses_unless_told_otherwise(tmp_path: Path) -> None:
    upstream = _upstream(tmp_path, "{kind: entra, tenant_id: t, client_id: c, client_secret: s}")
    assert upstream.credential == EntraApp("t", "c", Secret("s"))
    assert upstream.credential.authority == "https://login.microsoftonline.com"


def test_a_service_account_is_read_from_its_key_file(tmp_path: Path) -> None:
    key = {"client_email": "a@b", "private_key": "PEM", "project_id": "proj"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    upstream = _upstream(tmp_path, f"{{kind: service_account, file: {tmp_path}/key.json, location: europe-west4}}")
    assert upstream.credential == ServiceAccount("a@b", Secret("PEM"), "proj", "europe-west4")


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file"), ("[]", "not the key file"), ("{", "not the key")]
)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        _upstream(tmp_path, f"{{kind: service_account, file: {tmp_path}/key.json}}")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind"):
        _upstream(tmp_path, "{kind: kerberos}")


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        (
            "dialect: openai, auth: {kind: aws, region: r, access_key_id: a, secret_access_key: s}",
            "is for the dialect bedrock",
        ),
        ("dialect: anthropic, auth: {kind: entra, tenant_id: t, client_id: c, client_secret: s}", "openai or mistral"),
        ("api_key: k, auth: {kind: entra, tenant_id: t, client_id: c, client_secret: s}", "there is a key too"),
        ("auth: {kind: entra, tenant_id: t, client_id: c, client_secret: s, authority: 'ftp://x'}", "must be a URL"),
    ],
)
def test_a_credential_that_would_not_be_used_is_refused(tmp_path: Path, provider: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compiled(write(tmp_path, MODEL + f"providers: {{p: {{base_url: https://llm.example.com/v1, {provider}}}}}\n"))


def test_an_operation_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    text = MODEL + "providers: {p: {base_url: https://llm.example.com/v1, quirks: {operations: [image/generations]}}}\n"
    with pytest.raises(ConfigError, match="operations"):
        compiled(write(tmp_path, text))
