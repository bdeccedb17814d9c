"""`aidock quotas explain`: the server's own answer, made beside it."""

from __future__ import annotations

import time
from typing import Any

import click

from gateway import plugins
from gateway.cli._shared import closest, database_of, fail, show
from gateway.cli._snapshot import snapshot_of
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError
from gateway.core.ports import StoreUnavailable
from gateway.explain import Question, explain
from gateway.identity import callers
from gateway.identity.limits import LimitBook
from gateway.local import counters_of
from gateway.settings.load import Document
from gateway.storage import quotas
from gateway.world import build

_LIMIT = ("policy", "scope", "subject", "metric", "window", "action", "limit", "used", "needed", "remaining")


async def answer_to(
    document: Document, user: str | None, key: str | None, endpoint: str, call: tuple[str, int, int | None]
) -> dict[str, Any]:
    """What `POST /api/v1/quotas/explain` would answer an administrator. `call` is the model, the prompt's tokens and
    the output cap. Raises `NotFound`."""
    model, prompt_tokens, max_tokens = call
    question = Question(model, _endpoint(endpoint), None, prompt_tokens, max_tokens)
    snapshot = snapshot_of(document)
    book = LimitBook(lambda: snapshot.limits)
    email = None if user is None else user.strip().lower()
    async with database_of(document) as database:
        async with database.read() as session:
            book.load(await quotas.limits(session))
            if key is not None:
                asked = await callers.by_key(session, key, email, time.time())
            else:
                asked = await callers.by_user(session, email or "", time.time())
        try:
            async with counters_of(document, snapshot, database) as counters:
                return await explain(asked, question, build(snapshot, {}), counters, book.limits)
        except (GatewayError, StoreUnavailable) as error:
            fail(str(error), 1)


def print_answer(answer: dict[str, Any]) -> None:
    """The answer for a person: the decision, then what it is made of."""
    decision = answer["decision"]
    if decision["allowed"]:
        where = f" by way of '{answer['begins']}', the fallback for it" if answer["fallback"] else ""
        click.echo(f"The call would pass{where}.")
    else:
        click.echo(f"The call would be refused by {decision['decided_by']}: {decision['status']} {decision['code']}")
        click.echo(decision["message"])
    if answer["note"]:
        click.echo(answer["note"])
    if answer["policies"]:
        click.echo()
        show(answer["policies"], ("policy", "shadow", "verdict", "message"), as_json=False)
    if answer["limits"]:
        click.echo()
        show(answer["limits"], (*_LIMIT, "resets_in_seconds", "verdict"), as_json=False)


def _endpoint(name: str) -> Inference:
    known = {endpoint.name: endpoint for endpoint in plugins.endpoints() if isinstance(endpoint, Inference)}
    if name not in known:
        raise click.BadParameter(f"there is no endpoint '{name}'.{closest(name, known)}", param_hint="--endpoint")
    return known[name]
