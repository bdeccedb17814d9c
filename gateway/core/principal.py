"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity behind an API key, as the data plane needs it. `models` None means no list: all models. `role` is
    the user's: `admin` or `user`."""

    key_id: str
    user: str
    department: str
    models: frozenset[str] | None = None
    expires_at: float | None = None
    role: str = "user"

    def may_use(self, model_id: str) -> bool:
        return self.models is None or model_id in self.models
