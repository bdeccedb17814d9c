"""What some providers want instead of a key: something to sign with, or something to get a token for."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.secret import Secret


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """Signs requests with AWS signature version 4. `session_token` belongs to temporary keys."""

    region: str
    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class EntraApp:
    """An application of Microsoft Entra ID that gets tokens by its client secret."""

    tenant_id: str
    client_id: str
    client_secret: Secret
    authority: str = "https://login.microsoftonline.com"
    scope: str = "https://cognitiveservices.azure.com/.default"


@dataclass(frozen=True)
class ServiceAccount:
    """A Google service account: `private_key` is PEM and signs the assertion that `token_uri` gives a token for."""

    email: str
    private_key: Secret
    project: str
    location: str = "global"
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105  an address


Credential = AwsKeys | EntraApp | ServiceAccount
