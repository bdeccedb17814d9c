"""The kinds of value a configuration holds. Strict: text is text, numbers are numbers, and what came from the
environment, which is always text, is read as what the place calls for."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from gateway.core.money import MAX_AMOUNT
from gateway.settings.redis_url import SCHEMES, parse_redis_url
from gateway.settings.scalars import Expanded, resolve

_ON = frozenset({"true", "1", "yes", "on"})
_OFF = frozenset({"false", "0", "no", "off"})


def refuse(message: str, suggestion: str | None = None) -> PydanticCustomError:
    """An error for one value. The message stands as it is; it must not hold the value."""
    return PydanticCustomError("setting", "{reason}", {"reason": message, "suggestion": suggestion})


class Section(BaseModel):
    """A mapping with a fixed set of keys. An empty value is the same as an absent key."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_values(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _whole(value: object) -> int:
    if isinstance(value, Expanded):
        value = resolve(value.strip())
    if isinstance(value, str) and resolve(value) != value:
        raise refuse("must be a whole number, without quotes")
    if isinstance(value, str) and re.fullmatch(r"[0-9_]+", value):
        raise refuse("must be a whole number, written with digits alone and without leading zeros")
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse("must be a whole number")
    return value


def _number(value: object) -> Decimal:
    if isinstance(value, Expanded):
        value = resolve(value.strip())
    if isinstance(value, str) and resolve(value) != value:
        raise refuse("must be a number, without quotes")
    if isinstance(value, bool) or not isinstance(value, int | Decimal | float):
        raise refuse("must be a number")
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise refuse("must be a number")
    return number


def _switch(value: object) -> bool:
    if isinstance(value, Expanded):
        word = value.strip().lower()
        value = True if word in _ON else False if word in _OFF else value
    if isinstance(value, bool):
        return value
    meant = None
    if isinstance(value, str) and not isinstance(value, Expanded) and value.lower() in _ON | _OFF:
        meant = "true" if value.lower() in _ON else "false"
    raise refuse("must be true or false", meant)


def _text(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | Decimal):
        raise refuse("must be text; put it in quotes")
    raise refuse("must be text")


def _name(value: str) -> str:
    if not value:
        raise refuse("must not be empty")
    if len(value) > 256:
        raise refuse("must not be longer than 256 characters")
    if not value.isprintable() or value != value.strip():
        raise refuse("must be printable, without line ends or spaces around it")
    return value


def _variable_name(value: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,127}", value):
        raise refuse(
            "must be the name of an environment variable, in capitals; to give the key itself use api_key: ${NAME}"
        )
    return value


def _database_url(value: str) -> str:
    if value.startswith("postgres://"):  # what hosting platforms call it
        value = f"postgresql://{value.removeprefix('postgres://')}"
    if not value.startswith(("sqlite:///", "postgresql://")):
        raise refuse("must begin with sqlite:/// or postgresql://")
    return value


def _counters_url(value: str) -> str:
    if value.startswith("memory://"):
        return value
    if value.partition("://")[0] not in SCHEMES:
        *others, last = (f"{scheme}://" for scheme in ("memory", *SCHEMES))
        raise refuse(f"must begin with {', '.join(others)} or {last}")
    try:
        parse_redis_url(value)
    except ValueError as error:
        raise refuse(str(error)) from None
    return value


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise refuse("is not a header name")
    return value.lower()


def _header_value(value: str) -> str:
    if not all(" " <= c <= "~" or c == "\t" for c in value):
        raise refuse("must be a header value: printable ASCII")
    return value


def _day(value: object) -> date:
    if isinstance(value, date):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value, re.ASCII):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise refuse("must be a date such as 2026-01-31")


Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_text), AfterValidator(_name), WithJsonSchema({"type": "string", "minLength": 1})]
VariableName = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_variable_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*$"}),
]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, BeforeValidator(_text), AfterValidator(_header_value)]
DatabaseUrl = Annotated[str, BeforeValidator(_text), AfterValidator(_database_url)]
CountersUrl = Annotated[str, BeforeValidator(_text), AfterValidator(_counters_url)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Whole = Annotated[int, BeforeValidator(_whole)]
Seconds = Annotated[float, BeforeValidator(_number), Field(ge=0.001, le=86_400)]
SecondsOrNone = Annotated[float, BeforeValidator(_number), Field(ge=0, le=86_400)]
Dollars = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, lt=MAX_AMOUNT // 1_000_000),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
UnitDollars = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, lt=100_000),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
"""Few enough that the price of a million fits into a database's integer."""
Amount = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, lt=MAX_AMOUNT),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
