"""The tables. Times are unix seconds, money micro-dollars; nothing is ever a naive date.

A ledger row keeps names as they were at the time of the call, so it refers to no other table and outlives them all.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from gateway.core.money import RATES, Price

PASSING = "passing"
"""Marks a table of what runs now, which no backup keeps."""

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(SQLModel):
    """Our own metadata, so that constraints have the same names in every database."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=_NAMES)


class Department(Base, table=True):
    """Who pays. An archived one keeps its history and lets nobody in."""

    __tablename__ = "departments"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    created_at: float = Field(sa_type=Double)
    archived_at: float | None = Field(default=None, sa_type=Double)


class User(Base, table=True):
    """A person or a service. `email` is in lower case; `role` is `admin` or `user`."""

    __tablename__ = "users"

    id: str = Field(primary_key=True)
    email: str = Field(unique=True)
    display_name: str
    department_id: str = Field(foreign_key="departments.id", index=True)
    role: str
    created_at: float = Field(sa_type=Double)
    deactivated_at: float | None = Field(default=None, sa_type=Double)


class ApiKey(Base, table=True):
    """A key as far as we know it: its digest, never itself. `models` None means every model."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    public_id: str = Field(unique=True)
    user_id: str = Field(foreign_key="users.id", index=True)
    name: str
    digest: bytes = Field(unique=True, sa_type=LargeBinary)
    pepper_version: str
    models: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    created_at: float = Field(sa_type=Double)
    expires_at: float | None = Field(default=None, sa_type=Double)
    revoked_at: float | None = Field(default=None, sa_type=Double)
    replaced_by: str | None = Field(default=None, foreign_key="api_keys.id")
    last_used_at: float | None = Field(default=None, sa_type=Double)


class Quota(Base, table=True):
    """A limit set by hand, as `gateway.core.limits.Limit` describes it."""

    __tablename__ = "quotas"
    __table_args__ = (UniqueConstraint("scope", "subject", "metric", "window"),)

    id: str = Field(primary_key=True)
    scope: str
    subject: str
    metric: str
    window: str
    amount: int = Field(sa_type=BigInteger)
    action: str
    created_at: float = Field(sa_type=Double)
    updated_at: float = Field(sa_type=Double)


TERMINAL = ("charge", "refund", "orphan")
"""The kinds that end a call. A call has one row of them; `adjust` rows come on top."""

_IS_TERMINAL = text("kind IN ('charge', 'refund', 'orphan')")
_ZERO = {"server_default": text("0")}


class LedgerRow(Base, table=True):
    """The fields of `OutcomeRecord`, under the same names and in its order. Rows are added and never changed.

    `decisions` is a JSON list of objects, NULL where no limit was asked.
    """

    __tablename__ = "ledger"
    __table_args__ = (
        Index(None, "created_at"),
        Index(
            "uq_ledger_request_id_terminal",
            "request_id",
            unique=True,
            sqlite_where=_IS_TERMINAL,
            postgresql_where=_IS_TERMINAL,
        ),
    )

    request_id: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    created_at: float = Field(sa_type=Double)
    user: str
    department: str
    key_id: str
    endpoint: str
    model_id: str
    provider: str
    upstream_model: str
    streamed: bool = Field(sa_type=Boolean)
    status: int = Field(sa_type=BigInteger)
    outcome: str
    prompt_tokens: int | None = Field(default=None, sa_type=BigInteger)
    completion_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cached_tokens: int | None = Field(default=None, sa_type=BigInteger)
    reasoning_tokens: int | None = Field(default=None, sa_type=BigInteger)
    usage_source: str | None = None
    cost_microusd: int = Field(sa_type=BigInteger)
    price_version: str
    latency_ms: int = Field(sa_type=BigInteger)
    first_token_ms: int | None = Field(default=None, sa_type=BigInteger)
    attempts: int = Field(sa_type=BigInteger)
    reserved_tokens: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    reserved_cost: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    decisions: str | None = Field(default=None, sa_type=Text)
    number: int = Field(default=0, primary_key=True, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    units: int | None = Field(default=None, sa_type=BigInteger)
    unit: str | None = None
    saved_microusd: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)


class UsageDay(Base, table=True):
    """The ledger summed by day of the organisation's time zone (`YYYY-MM-DD`). `requests` counts every call once;
    `refunds` are those of them that used nothing."""

    __tablename__ = "usage_daily"

    day: str = Field(primary_key=True)
    department: str = Field(primary_key=True)
    user: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True)
    model_id: str = Field(primary_key=True)
    provider: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    refunds: int = Field(sa_type=BigInteger)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    cost_microusd: int = Field(sa_type=BigInteger)
    saved_microusd: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)


class ShadowRefusal(Base, table=True):
    """Calls that a policy in shadow would have refused, by day of the organisation's time zone and by who called
    what. `scope`, `subject`, `metric` and `window` name the limit; they are empty where none was at stake."""

    __tablename__ = "shadow_refusals"

    day: str = Field(primary_key=True)
    policy: str = Field(primary_key=True)
    scope: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    window: str = Field(primary_key=True)
    department: str = Field(primary_key=True)
    user: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True)
    model_id: str = Field(primary_key=True)
    refused: int = Field(sa_type=BigInteger)
    last_at: float = Field(sa_type=Double)


class PriceSeen(Base, table=True):
    """What each price version meant, as `gateway.core.money.Price` has it, so that old rows can be checked."""

    __tablename__ = "prices_seen"

    version: str = Field(primary_key=True)
    input: int = Field(sa_type=BigInteger)
    output: int = Field(sa_type=BigInteger)
    cached_input: int | None = Field(default=None, sa_type=BigInteger)
    first_seen: float = Field(sa_type=Double)
    per_image: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    per_minute: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    per_million_characters: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)
    per_search: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs=_ZERO)


class Revision(Base, table=True):
    """A number that grows with every change to what other processes have cached."""

    __tablename__ = "revisions"

    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


class RunningGateway(Base, table=True):
    """A process whose calls may have rows on their way here. `beats` grows for as long as it lives; `told` is the
    rebuild of the counters before which all that it knew has come here."""

    __tablename__ = "gateways"
    __table_args__ = {"info": {PASSING: True}}

    name: str = Field(primary_key=True)
    beats: int = Field(sa_type=BigInteger)
    told: str


class Setting(Base, table=True):
    """What an installation remembers about itself."""

    __tablename__ = "settings"

    name: str = Field(primary_key=True)
    value: str


def _table(name: str) -> Table:
    return Base.metadata.tables[name]


DEPARTMENTS = _table("departments")
USERS = _table("users")
API_KEYS = _table("api_keys")
QUOTAS = _table("quotas")
LEDGER = _table("ledger")
USAGE_DAILY = _table("usage_daily")
SHADOW_REFUSALS = _table("shadow_refusals")
PRICES_SEEN = _table("prices_seen")
REVISIONS = _table("revisions")
GATEWAYS = _table("gateways")
SETTINGS = _table("settings")


def price_of(row: Any) -> Price:
    """A row of `prices_seen`, or one that has its columns, as the price it tells of."""
    rates = {name: getattr(row, name) for name, _ in RATES.values()}
    return Price(row.input, row.output, row.cached_input, row.version, **rates)
