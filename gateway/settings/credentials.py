"""What a provider proves itself with where a key is not enough, as configured -> as used."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.core.credentials import AwsKeys, Credential, EntraApp, ServiceAccount
from gateway.core.secret import Secret
from gateway.settings.findings import Findings
from gateway.settings.problems import KeyPath
from gateway.settings.schema import AwsSettings, CredentialSettings, EntraSettings, ServiceAccountSettings


def credential(settings: CredentialSettings | None, path: KeyPath, findings: Findings) -> Credential | None:
    """The credential as providers use it; None, and a finding, where it cannot be used."""
    match settings:
        case AwsSettings():
            token = settings.session_token
            return AwsKeys(
                settings.region,
                settings.access_key_id,
                Secret(settings.secret_access_key.get_secret_value()),
                Secret(token.get_secret_value()) if token is not None else None,
            )
        case EntraSettings():
            return EntraApp(
                settings.tenant_id,
                settings.client_id,
                Secret(settings.client_secret.get_secret_value()),
                settings.authority.rstrip("/"),
                settings.scope,
            )
        case ServiceAccountSettings():
            return _service_account(settings, path, findings)
    return None


def _service_account(settings: ServiceAccountSettings, path: KeyPath, findings: Findings) -> ServiceAccount | None:
    where = (*path, "file")
    try:
        document = json.loads(Path(settings.file).read_text("utf-8"))
        return ServiceAccount(
            email=str(document["client_email"]),
            private_key=Secret(str(document["private_key"])),
            project=settings.project or str(document["project_id"]),
            location=settings.location,
            token_uri=str(document.get("token_uri") or ServiceAccount.token_uri),
        )
    except OSError:
        findings.refuse(where, "there is no such file, or it cannot be read")
    except (ValueError, KeyError, TypeError):
        findings.refuse(where, "is not the key file of a service account")
    return None
