"""The tables that ship with the program: known vendors and dated prices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from gateway.core.money import RATES, TOKENS_PER_PRICE, Price, PriceSchedule, UnitRate, micros
from gateway.settings.fields import Section
from gateway.settings.problems import ConfigError, Problem
from gateway.settings.schema import PriceRow, PriceSettings, PriceTable, VendorRow, VendorTable
from gateway.settings.source import read_file
from gateway.settings.validate import validate

S = TypeVar("S", bound=Section)


def read_table(kind: type[S], path: Path) -> S:
    """One of the tables. Raises `ConfigError`."""
    problems: list[Problem] = []
    table = validate(kind, read_file(path, {}, problems), problems)
    if problems or table is None:
        raise ConfigError(problems)
    return table


@dataclass(frozen=True, slots=True)
class Vendors:
    """The known vendors by name."""

    rows: Mapping[str, VendorRow]

    @classmethod
    def read(cls, path: Path) -> Vendors:
        return cls(read_table(VendorTable, path).vendors)

    def at(self, base_url: str) -> str | None:
        """The vendor that is known to live at a URL."""
        host = _host(base_url)
        for name, row in self.rows.items():
            if host and (host == _host(row.base_url or "") or any(_matches(host, known) for known in row.hosts)):
                return name
        return None


def _host(url: str) -> str:
    """Host and port, so that servers on one machine can be told apart."""
    try:
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        return f"{host or ''}:{parts.port}" if parts.port else host or ""
    except ValueError:
        return ""


def _matches(host: str, known: str) -> bool:
    return host.endswith(known[1:]) if known.startswith("*") else host == known


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Dated list prices of well-known models."""

    rows: Sequence[PriceRow]
    source: str

    @classmethod
    def read(cls, path: Path) -> PriceBook:
        return cls(read_table(PriceTable, path).prices, path.name)

    def find(self, vendor: str, model: str) -> PriceSchedule | None:
        """A vendor's prices for a model; an exact row outranks a prefix, a longer prefix a shorter one."""
        rows = [row for row in self.rows if row.vendor == vendor and _covers(row.model, model)]
        if not rows:
            return None
        best = max((row.model for row in rows), key=lambda pattern: (not pattern.endswith("*"), len(pattern)))
        return schedule([row for row in rows if row.model == best], self.source)


def _covers(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def schedule(entries: Iterable[PriceSettings], source: str) -> PriceSchedule:
    """Prices as compiled: micro-dollars, each from midnight UTC of its first day, with a version that names where it
    was written, from when it holds, and what it says."""
    return PriceSchedule(tuple(sorted(((_since(entry), _price(entry, source)) for entry in entries), key=_first)))


def _first(entry: tuple[float, Price]) -> float:
    return entry[0]


def _since(entry: PriceSettings) -> float:
    return datetime.combine(entry.since, time(), UTC).timestamp() if entry.since else 0.0


def _price(entry: PriceSettings, source: str) -> Price:
    rates = (
        micros(entry.input or Decimal(0)),
        micros(entry.output or Decimal(0)),
        None if entry.cached_input is None else micros(entry.cached_input),
    )
    units = _unit_rates(entry)
    said = (*rates, *units.items())  # a price without units keeps the version that it had before there were any
    digest = hashlib.sha256(repr(said).encode()).hexdigest()[:8]
    return Price(*rates, version=f"{source}:{entry.since or 'always'}:{digest}", **units)


def _unit_rates(entry: PriceSettings) -> dict[UnitRate, int]:
    """The prices per unit that there are, each for a million of them."""
    stated = {name: getattr(entry, name) for name, _ in RATES.values()}
    scales = {name: 1 if name == "per_million_characters" else TOKENS_PER_PRICE for name in stated}
    return {name: micros(dollars * scales[name]) for name, dollars in stated.items() if dollars}
