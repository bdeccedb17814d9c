"""Where the files that ship with the program are: beside the packages in a checkout, in `gateway/data` in a wheel."""

from __future__ import annotations

from pathlib import Path

_GATEWAY = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    packaged = _GATEWAY / "data" / name
    return packaged if packaged.is_dir() else _GATEWAY.parent / name


def config_file(name: str) -> Path:
    """A file of `config/`, such as `aidock.yaml` or `examples/openai.yaml`."""
    return _shipped("config") / name


def migrations_dir() -> Path:
    """The migration scripts."""
    return _shipped("migrations")


def vendors_file() -> Path:
    """The table of known vendors, which ships inside the `providers` package."""
    return _GATEWAY.parent / "providers" / "vendors.yaml"
