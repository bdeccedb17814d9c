"""`aidock quotas`."""

from __future__ import annotations

import json
import sys
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, database_of, document_of, json_option, moment, names, note, show
from gateway.core.limits import ACTIONS, METRICS, SCOPES, Action, Limit, Metric, Scope, Window
from gateway.core.money import MAX_AMOUNT, dollars, micros
from gateway.storage import quotas
from gateway.storage.errors import Conflict

_COLUMNS = ("scope", "subject", "metric", "limit", "window", "action", "origin")
_WINDOWS = ("minute", "hour", "day", "month", "total")
_SHADOW_BY = "Any of day, policy, scope, subject, metric, window, department, user, key, model."


@click.group()
def command() -> None:
    """How much of what: limits on requests, tokens, cost and parallel calls."""


@command.command("set")
@click.argument("scope", type=click.Choice(SCOPES))
@click.argument("subject")
@click.argument("metric", type=click.Choice(METRICS))
@click.argument("limit")
@click.argument("window", type=click.Choice(_WINDOWS), required=False)
@click.option("--action", type=click.Choice(ACTIONS), default="deny", show_default=True)
@config_option
@json_option
@run
async def set_(
    scope: Scope,
    subject: str,
    metric: Metric,
    limit: str,
    window: Window | None,
    action: Action,
    config: Path | None,
    as_json: bool,
) -> None:
    """Set a limit, or change it.

    \b
    aidock quotas set department research tokens 1000000 month
    aidock quotas set user ada@example.com cost 12.50 day
    aidock quotas set global - requests 5000 minute        (global takes - for its subject)
    aidock quotas set key 7Hq2c0Xy1Zab parallel 4          (parallel takes no window)
    """
    wanted = Limit(scope, _subject(scope, subject), metric, _window(metric, window), _amount(metric, limit), action)
    from gateway.cli._origins import counter_of, stated

    document = document_of(config)
    async with database_of(document) as database, database.write() as session:
        put = quotas.as_limit(await quotas.put(session, wanted))
        index = stated(document).get(counter_of(put))
        if index is not None:
            raise Conflict(
                f"{document.place(('quotas', index))} sets this limit on {put.metric} of {put.label} already, and it "
                "would now be in the database too. It can have one origin: change it there, or take it out there "
                "and set it here."
            )
    show([_row(put, "console")], _COLUMNS, as_json)


@command.command("list")
@config_option
@json_option
@run
async def list_(config: Path | None, as_json: bool) -> None:
    """Show all limits: those set here and those of the configuration file."""
    from gateway.cli._snapshot import snapshot_of

    document = document_of(config)
    rows = [_row(limit, "file") for limit in snapshot_of(document).limits]
    async with database_of(document) as database, database.read() as session:
        rows += [_row(limit, "console") for limit in await quotas.limits(session)]
    show(rows, _COLUMNS, as_json)


@command.command()
@click.argument("scope", type=click.Choice(SCOPES))
@click.argument("subject")
@click.argument("metric", type=click.Choice(METRICS))
@click.argument("window", type=click.Choice(_WINDOWS), required=False)
@config_option
@run
async def remove(scope: Scope, subject: str, metric: Metric, window: Window | None, config: Path | None) -> None:
    """Remove a limit that was set here."""
    async with database_of(document_of(config)) as database, database.write() as session:
        await quotas.remove(session, scope, _subject(scope, subject), metric, _window(metric, window))
    note("The limit is gone.")


@command.command()
@click.option("--user", help="Who would call, by e-mail.")
@click.option("--key", help="With which key, by its public id.")
@click.option("--model", required=True, help="The model they would name.")
@click.option("--endpoint", default="chat.completions", show_default=True, help="Where they would send it.")
@click.option("--prompt-tokens", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--max-tokens", type=click.IntRange(0, 2**31), help="The output cap they would set.")
@config_option
@json_option
@run
async def explain(
    user: str | None,
    key: str | None,
    model: str,
    endpoint: str,
    prompt_tokens: int,
    max_tokens: int | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Say whether a call would pass, and what decides it. Nothing is sent or held.

    Exit code 0: it would pass; 1: it would be refused.

    \b
    aidock quotas explain --user ada@example.com --model demo --max-tokens 500
    """
    from gateway.cli._explain import answer_to, print_answer

    if user is None and key is None:
        raise click.UsageError("Say who would call: --user, --key, or both.")
    answer = await answer_to(document_of(config), user, key, endpoint, (model, prompt_tokens, max_tokens))
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_answer(answer)
    if not answer["decision"]["allowed"]:
        sys.exit(1)


@command.command()
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day.")
@click.option("--by", default="policy,scope,subject,metric,window,user", show_default=True, help=_SHADOW_BY)
@config_option
@json_option
@run
async def shadow(first: date | None, last: date | None, by: str, config: Path | None, as_json: bool) -> None:
    """Who would have been refused by what is in shadow, or only warns.

    A call counts once for each policy. A running gateway writes what it has seen every few seconds.

    \b
    aidock quotas shadow --from 2026-11-01 --by policy,department,model
    """
    from gateway.storage import shadow as refusals

    groups = names(by) or []
    days = [None if day is None else f"{day:%Y-%m-%d}" for day in (first, last)]
    async with database_of(document_of(config)) as database, database.read() as session:
        rows = await refusals.report(session, groups, *days)
    for row in rows:
        row["last_at"] = moment(row["last_at"])
    show(rows, [*dict.fromkeys(groups), "refused", "last_at"], as_json)


def _subject(scope: Scope, subject: str) -> str:
    return "" if scope == "global" and subject == "-" else subject


def _window(metric: Metric, window: Window | None) -> Window:
    if metric == "parallel":
        if window is not None:
            raise click.UsageError("parallel takes no window: it counts calls at one moment.")
        return "none"
    if window is None:
        raise click.UsageError(f"{metric} needs a window: {', '.join(_WINDOWS)}.")
    return window


def _amount(metric: Metric, text: str) -> int:
    try:
        number = Decimal(text.replace("_", "").removeprefix("$"))
    except InvalidOperation:
        raise click.BadParameter(f"'{text}' is not a number", param_hint="LIMIT") from None
    most = dollars(MAX_AMOUNT - 1) if metric == "cost" else Decimal(MAX_AMOUNT - 1)
    if not number.is_finite() or not 0 <= number <= most or (metric != "cost" and number != int(number)):
        kind = "an amount of US dollars" if metric == "cost" else "a whole number"
        raise click.BadParameter(f"a limit on {metric} is {kind} from 0 to {most:f}", param_hint="LIMIT")
    return micros(number) if metric == "cost" else int(number)


def _row(limit: Limit, origin: str) -> dict[str, Any]:
    return {
        "scope": limit.scope,
        "subject": limit.subject,
        "metric": limit.metric,
        "limit": float(dollars(limit.amount)) if limit.metric == "cost" else limit.amount,
        "window": None if limit.window == "none" else limit.window,
        "action": limit.action,
        "origin": origin,
    }
