"""What gets a token for a Google service account: an assertion signed with its key, for its token URI."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

from gateway.core.body import encode
from providers._tokens import Question, Tokens

if TYPE_CHECKING:
    from gateway.core.credentials import ServiceAccount

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

LIFETIME_S = 3600
"""The longest that Google gives an assertion."""


def google_tokens() -> Tokens[ServiceAccount]:
    """The tokens of service accounts."""
    return Tokens(_question, "Google", "service account")


def assertion(account: ServiceAccount, now: float) -> str:
    """The JWT by which an account asks for a token, good for an hour from `now` (unix seconds). Raises `ValueError`
    where its key cannot sign."""
    # Imported by whoever signs: it is 8 MB that gateways without a service account do without.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(account.private_key.reveal().encode(), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("the key cannot be read") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the key is not an RSA key")  # noqa: TRY004  a wrong value in a file, not a wrong type here
    claims = {
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": int(now),
        "exp": int(now) + LIFETIME_S,
    }
    signed = f"{_part(encode({'alg': 'RS256', 'typ': 'JWT'}))}.{_part(encode(claims))}"
    return f"{signed}.{_part(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


async def _question(account: ServiceAccount) -> Question:
    try:
        # Checking an RSA key takes milliseconds, which the loop's other calls need not wait for.
        signed = await asyncio.to_thread(assertion, account, time.time())
    except ValueError as error:
        raise ValueError("the private key of its service account cannot be used") from error
    return Question(account.token_uri, {"grant_type": GRANT, "assertion": signed})
