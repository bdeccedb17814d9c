"""Reading a policy's settings with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.ports import OnStoreError


class Settings:
    """A policy's settings, taken one by one; `done` refuses what nobody took. Raises `ValueError`."""

    def __init__(self, policy: str, values: Mapping[str, object]) -> None:
        self._policy = policy
        self._values = dict(values)
        self._known: list[str] = []

    def on_store_error(self, default: OnStoreError) -> OnStoreError:
        match self._take("on_store_error", default):
            case "deny":
                return "deny"
            case "allow":
                return "allow"
        raise ValueError(f"{self._policy}.on_store_error must be deny or allow")

    def choice(self, name: str, default: str, *others: str) -> str:
        """One of a few words."""
        value = self._take(name, default)
        if isinstance(value, str) and value in (default, *others):
            return value
        raise ValueError(f"{self._policy}.{name} must be {' or '.join((default, *others))}")

    def factor(self, name: str, default: float) -> float:
        """A number from 1 to 100."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:
            raise ValueError(f"{self._policy}.{name} must be a number from 1 to 100")
        return float(value)

    def seconds(self, name: str, default: float, most: float) -> float:
        """A number of seconds, which may be 0."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{self._policy}.{name} must be a number of seconds from 0 to {most:g}")
        return float(value)

    def count(self, name: str, default: int) -> int:
        """A positive integer."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self._policy}.{name} must be a positive integer")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._take(name, default)
        if value is True or value is False:
            return value
        raise ValueError(f"{self._policy}.{name} must be true or false")

    def text(self, name: str, default: str | None = None) -> str:
        """Some text; needed where there is no default."""
        value = self._take(name, default)
        if not isinstance(value, str) or (default is None and not value):
            raise ValueError(f"{self._policy}.{name} must be text")
        return value

    def texts(self, name: str, default: Sequence[str] = ()) -> list[str]:
        """A list of texts, none of them empty."""
        value = self._take(name, list(default))
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f"{self._policy}.{name} must be a list of texts")
        return list(value)

    def sections(self, name: str) -> list[Settings]:
        """A list of settings of their own."""
        value = self._take(name, [])
        if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
            raise ValueError(f"{self._policy}.{name} must be a list of mappings")
        return [Settings(f"{self._policy}.{name}[{index}]", item) for index, item in enumerate(value)]

    def done(self) -> None:
        if self._values:
            unknown = ", ".join(sorted(self._values))
            raise ValueError(f"{self._policy} has no setting {unknown}; it has: {', '.join(self._known)}")

    def _take(self, name: str, default: object) -> object:
        self._known.append(name)
        return self._values.pop(name, default)
