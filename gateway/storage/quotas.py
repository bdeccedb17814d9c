"""Quotas: limits that were set by hand rather than in the configuration file."""

from __future__ import annotations

import time
from typing import cast

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from gateway.core.limits import ACTIONS, METRICS, SCOPES, WINDOWS, Action, Limit, Metric, Scope, Window
from gateway.core.money import MAX_AMOUNT
from gateway.storage import departments, users
from gateway.storage.errors import Invalid, NotFound, not_found
from gateway.storage.revisions import bump
from gateway.storage.statements import new_id
from gateway.storage.tables import API_KEYS, QUOTAS, Quota


async def put(session: AsyncSession, limit: Limit) -> Quota:
    """Set a limit, replacing the one on the same scope, subject, metric and window.

    A department, user or key has to exist; which models there are is the configuration's business. Raises `NotFound`
    or `Invalid`.
    """
    await bump(session)
    check(limit)
    subject = await _subject(session, limit.scope, limit.subject)
    now = time.time()
    quota = (
        await session.scalars(select(Quota).where(_named(limit.scope, subject, limit.metric, limit.window)))
    ).first()
    if quota is None:
        quota = Quota(
            id=new_id(),
            scope=limit.scope,
            subject=subject,
            metric=limit.metric,
            window=limit.window,
            amount=limit.amount,
            action=limit.action,
            created_at=now,
            updated_at=now,
        )
        session.add(quota)
    else:
        quota.amount, quota.action, quota.updated_at = limit.amount, limit.action, now
    return quota


async def every(session: AsyncSession) -> list[Quota]:
    """All of them, in the order of scope, subject, metric and window."""
    order = (QUOTAS.c.scope, QUOTAS.c.subject, QUOTAS.c.metric, QUOTAS.c.window)
    return list(await session.scalars(select(Quota).order_by(*order)))


async def limits(session: AsyncSession) -> tuple[Limit, ...]:
    """All of them as limits, in the order of `every`."""
    order = (QUOTAS.c.scope, QUOTAS.c.subject, QUOTAS.c.metric, QUOTAS.c.window)
    statement = select(*order, QUOTAS.c.amount, QUOTAS.c.action).order_by(*order)
    return tuple(Limit(*row) for row in await session.execute(statement))


async def remove(session: AsyncSession, scope: Scope, subject: str, metric: Metric, window: Window) -> Quota:
    """Raises `NotFound` when no such quota is set."""
    await bump(session)
    if scope == "user":
        subject = subject.strip().lower()
    quota = (await session.scalars(select(Quota).where(_named(scope, subject, metric, window)))).first()
    if quota is None:
        raise NotFound(f"No quota is set on {scope} {subject} for {metric} per {window}.".replace("  ", " "))
    await session.delete(quota)
    return quota


async def copy_subject(session: AsyncSession, scope: Scope, old: str, new: str) -> None:
    """Give a new subject the quotas of an old one."""
    now = time.time()
    for quota in await session.scalars(select(Quota).where(col(Quota.scope) == scope, col(Quota.subject) == old)):
        copied = quota.model_dump() | {"id": new_id(), "subject": new, "created_at": now, "updated_at": now}
        session.add(Quota(**copied))


def as_limit(quota: Quota) -> Limit:
    """A stored quota in the vocabulary of the data plane."""
    return Limit(
        cast("Scope", quota.scope),
        quota.subject,
        cast("Metric", quota.metric),
        cast("Window", quota.window),
        quota.amount,
        cast("Action", quota.action),
    )


def check(limit: Limit) -> None:
    """Raise `Invalid` for a limit that cannot be enforced."""
    _one_of("scope", limit.scope, SCOPES)
    _one_of("metric", limit.metric, METRICS)
    _one_of("window", limit.window, WINDOWS)
    _one_of("action", limit.action, ACTIONS)
    if (limit.metric == "parallel") != (limit.window == "none"):
        raise Invalid("A limit on parallel calls has no window, and every other limit has one.")
    if isinstance(limit.amount, bool) or not isinstance(limit.amount, int) or not 0 <= limit.amount < MAX_AMOUNT:
        raise Invalid(f"A limit is a whole number from 0 to {MAX_AMOUNT - 1}.")


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise Invalid(f"There is no {what} '{value}'; choose from {', '.join(choices)}.")


def _named(scope: str, subject: str, metric: str, window: str) -> ColumnElement[bool]:
    quota = QUOTAS.c
    return (quota.scope == scope) & (quota.subject == subject) & (quota.metric == metric) & (quota.window == window)


async def _subject(session: AsyncSession, scope: Scope, subject: str) -> str:
    """The subject as the data plane names it."""
    match scope:
        case "global":
            if subject:
                raise Invalid("The global scope has no subject.")
        case "department":
            return (await departments.find(session, subject)).name
        case "user":
            return (await users.find(session, subject)).email
        case "key":
            return await _public_id(session, subject)
        case "model":
            if not subject:
                raise Invalid("A limit on a model needs the model's id.")
    return subject


async def _public_id(session: AsyncSession, key: str) -> str:
    wanted = (API_KEYS.c.public_id == key) | (API_KEYS.c.id == key)
    found = await session.scalar(select(API_KEYS.c.public_id).where(wanted))
    if found is None:
        raise not_found("API key", key, await session.scalars(select(API_KEYS.c.public_id)))
    return str(found)
