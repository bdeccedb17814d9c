"""Short ways to a document and a snapshot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway import plugins
from gateway.settings.compile import Snapshot, compile_document
from gateway.settings.load import load
from gateway.settings.watch import Source

POLICIES = frozenset({"model_access", "rate_limit", "concurrency", "quota"})
DIALECTS = plugins.names("providers")


def write(folder: Path, text: str, name: str = "aidock.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def compiled(path: Path | None, environ: Mapping[str, str] | None = None, **flags: Any) -> Snapshot:
    document = load(path, environ or {}, {name.replace("__", "."): value for name, value in flags.items()})
    return compile_document(document, version=1, known_policies=POLICIES, known_dialects=DIALECTS)


def source(path: Path | None, environ: Mapping[str, str] | None = None) -> Source:
    return Source(path, environ or {}, {}, POLICIES, DIALECTS)
