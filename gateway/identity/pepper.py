"""The pepper: the secret that API keys are hashed with, so that a stolen database opens no door.

It is derived from `AIDOCK_SECRET`, or from `secret.key` in the data directory, which is made at first use. The
database remembers which pepper it was filled with; another one is refused, because every key would look unknown.
"""

from __future__ import annotations

import hmac
import math
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.storage import settings
from gateway.storage.engine import make_private_dir

VARIABLE = "AIDOCK_SECRET"
FILE_NAME = "secret.key"
MIN_BYTES = 32
MIN_ENTROPY_BITS = 100

_SETTING = "pepper_version"
_PURPOSE = b"aidock api key pepper 1"
_WELL_KNOWN = frozenset(
    [
        "changeme",
        "changeit",
        "example",
        "password",
        "yoursecret",
        "mysecret",
        "supersecret",
        "secretkey",
        "replaceme",
        "placeholder",
        "insecure",
        "0123456789",
        "1234567890",
        "abcdefghij",
        "qwertyuiop",
    ]
)


class PepperRefused(Exception):
    """The secret is weak, unreadable, missing, or not the one the database was filled with."""


class Pepper:
    """The hashing key and the short name of it. Prints only the name."""

    __slots__ = ("key", "version")

    def __init__(self, secret: bytes) -> None:
        self.key = hmac.digest(secret, _PURPOSE, "sha256")
        self.version = hmac.digest(self.key, b"version", "sha256")[:6].hex()

    def __repr__(self) -> str:
        return f"Pepper({self.version})"


def load_pepper(environ: Mapping[str, str], data_dir: Path) -> Pepper:
    """The installation's pepper; the file is made if there is no secret at all. Raises `PepperRefused`."""
    text = environ.get(VARIABLE, "").strip()
    if text:
        _refuse_weak(text)
        return Pepper(text.encode())
    path = data_dir / FILE_NAME
    try:
        if not path.exists():
            _create(path)
        return Pepper(_read(path))
    except OSError as error:
        raise PepperRefused(f"The secret file {path} cannot be used: {error.strerror}.") from error


async def confirm(session: AsyncSession, pepper: Pepper) -> None:
    """Make sure that the database was filled with this pepper; an empty one takes it for good. Needs a writing
    session. Raises `PepperRefused`."""
    expected = await settings.claim(session, _SETTING, pepper.version)
    if pepper.version != expected:
        raise PepperRefused(
            f"The secret is not the one this database was filled with: its name is {pepper.version}, not {expected}. "
            f"With it every API key would be unknown. Restore {VARIABLE} or the file {FILE_NAME} from your backup; if "
            f"{FILE_NAME} was missing, the one there now is new and of no use."
        )


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise PepperRefused(f"The secret file {path} can be read by others; run chmod 600 on it.")
    secret = path.read_bytes().strip()
    if len(secret) < MIN_BYTES:
        raise PepperRefused(f"The secret file {path} is damaged: it has fewer than {MIN_BYTES} bytes.")
    return secret


def _create(path: Path) -> None:
    """Make the file, complete and private. Of several processes one makes it, and all use that one."""
    make_private_dir(path.parent)
    descriptor, unfinished = tempfile.mkstemp(prefix=".secret-", dir=path.parent)  # exclusive, mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)  # unlike a rename, never replaces
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        Path(unfinished).unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_weak(secret: str) -> None:
    advice = f"Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' and set it as {VARIABLE}."
    if len(secret.encode()) < MIN_BYTES:
        raise PepperRefused(f"{VARIABLE} is shorter than {MIN_BYTES} bytes. {advice}")
    plain = re.sub(r"[^0-9a-z]", "", secret.lower())
    repeats = secret in (secret + secret)[1:-1]
    if repeats or any(known in plain for known in _WELL_KNOWN) or _entropy_bits(secret) < MIN_ENTROPY_BITS:
        raise PepperRefused(f"{VARIABLE} can be guessed. {advice}")


def _entropy_bits(text: str) -> float:
    """Shannon's measure of the text's own letters: an upper bound for how hard it is to guess."""
    total = len(text)
    return -sum(count * math.log2(count / total) for count in Counter(text).values())
