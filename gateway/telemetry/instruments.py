"""Counters, gauges and histograms without locks, for one event loop, and how several processes add theirs up.

An increment is one addition on a plain object. The price is that only the event loop's thread may touch them. What
Prometheus is shown is made from a `State` when it asks: plain data that one process can write to a file and another
can merge with its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

Values = tuple[str, ...]
Combine = Literal["sum", "min", "max"]
State = dict[str, dict[Values, list[float]]]
"""By family and label values: `[value]`, or for a histogram its bucket counts and then the sum."""

_COMBINE: Mapping[Combine, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min, "max": max}


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def numbers(self) -> list[float]:
        return [self.value]


class Level(Count):
    """A number that goes up and down."""

    __slots__ = ()

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = float(value)


class Spread:
    """Observations counted by upper bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def numbers(self) -> list[float]:
        return [*self.counts, self.total]


_Child = TypeVar("_Child", Count, Level, Spread)


class Family(Generic[_Child]):
    """All children of one name, by their label values."""

    def __init__(self, name: str, help: str, labels: Sequence[str], make: Callable[[], _Child]) -> None:
        self.name = name
        self.help = help
        self.label_names = tuple(labels)
        self._make: Callable[[], _Child] = make
        self.children: dict[Values, _Child] = {}

    def labels(self, *values: str) -> _Child:
        """The child with these values, made when it is first asked for."""
        child = self.children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            child = self.children[values] = self._make()
        return child

    def clear(self) -> None:
        self.children.clear()

    def numbers(self) -> dict[Values, list[float]]:
        return {values: child.numbers() for values, child in self.children.items()}


class Counts(Family[Count]):
    """A family of counters; `name` is without `_total`."""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels, Count)


class Levels(Family[Level]):
    """A family of gauges, and how those of several processes become one."""

    def __init__(self, name: str, help: str, combine: Combine, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels, Level)
        self.combine = combine


class Spreads(Family[Spread]):
    """A family of histograms over the same `bounds`."""

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        super().__init__(name, help, labels, lambda: Spread(bounds))
        self.bounds = tuple(bounds)


AnyFamily = Counts | Levels | Spreads


def state_of(families: Iterable[AnyFamily]) -> State:
    """Where all families of this process stand."""
    return {family.name: family.numbers() for family in families}


def merged(families: Iterable[AnyFamily], living: Sequence[State], ended: Sequence[State]) -> State:
    """Several processes as one. Those that have ended keep what they counted; their gauges are gone."""
    result: State = {}
    for family in families:
        sources = living if isinstance(family, Levels) else [*living, *ended]
        rows: dict[Values, list[list[float]]] = {}
        for state in sources:
            for values, numbers in state.get(family.name, {}).items():
                rows.setdefault(values, []).append(numbers)
        join = _COMBINE[family.combine if isinstance(family, Levels) else "sum"]
        result[family.name] = {
            values: [join(column) for column in zip(*found, strict=True)] for values, found in rows.items()
        }
    return result
