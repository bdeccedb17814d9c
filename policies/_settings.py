"""Reading a policy's settings with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping

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

    def count(self, name: str, default: int) -> int:
        """A positive integer."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self._policy}.{name} must be a positive integer")
        return value

    def done(self) -> None:
        if self._values:
            unknown = ", ".join(sorted(self._values))
            raise ValueError(f"{self._policy} has no setting {unknown}; it has: {', '.join(self._known)}")

    def _take(self, name: str, default: object) -> object:
        self._known.append(name)
        return self._values.pop(name, default)
