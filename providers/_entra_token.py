"""What gets a token for an application of Microsoft Entra ID: its client secret."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from providers._tokens import Question, Tokens

if TYPE_CHECKING:
    from gateway.core.credentials import EntraApp


def entra_tokens() -> Tokens[EntraApp]:
    """The tokens of applications."""
    return Tokens(_question, "Microsoft Entra", "application")


async def _question(app: EntraApp) -> Question:
    form = {
        "grant_type": "client_credentials",
        "client_id": app.client_id,
        "client_secret": app.client_secret.reveal(),
        "scope": app.scope,
    }
    return Question(f"{app.authority}/{quote(app.tenant_id, safe='')}/oauth2/v2.0/token", form)
