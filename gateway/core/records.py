"""The two records a call leaves in the journal. Tuples: they are written on the hot path and read back in bulk.

New fields go at the end with a default, so that a journal written by an older release can still be read.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.core.money import Unit
from gateway.core.usage import UsageSource

Kind = Literal["charge", "refund", "orphan", "adjust"]
Outcome = Literal["ok", "client_gone", "upstream_error", "timeout"]


class IntentRecord(NamedTuple):
    """A call is about to reach an upstream. Times are unix seconds, money micro-dollars."""

    request_id: str
    created_at: float
    user: str
    department: str
    key_id: str
    endpoint: str
    model_id: str
    provider: str
    upstream_model: str
    streamed: bool
    reserved_tokens: int
    reserved_cost: int
    price_version: str


class Decision(NamedTuple):
    """What one claim of the policy chain was told: where its limit stood once the claim was held, `amount` included.
    `counted` is false where the store could not be asked and the policy let the call pass."""

    policy: str
    scope: str
    subject: str
    metric: str
    window: str
    action: str
    limit: int
    used: int
    amount: int
    counted: bool = True


class OutcomeRecord(NamedTuple):
    """How it ended: the ledger row. `status` is what the client was sent, 0 when it was sent nothing. Token fields
    are None where unknown; `usage_source` is None where nothing was used. `number` tells the adjustments of one call
    apart, which count from 1. `units` of `unit` are what calls of other than language models are measured in;
    `saved_microusd` is what an answer from the cache cost when it was made."""

    request_id: str
    kind: Kind
    created_at: float
    user: str
    department: str
    key_id: str
    endpoint: str
    model_id: str
    provider: str
    upstream_model: str
    streamed: bool
    status: int
    outcome: Outcome
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    usage_source: UsageSource | None
    cost_microusd: int
    price_version: str
    latency_ms: int
    first_token_ms: int | None
    attempts: int = 1
    reserved_tokens: int = 0
    reserved_cost: int = 0
    decisions: tuple[Decision, ...] = ()
    number: int = 0
    units: int | None = None
    unit: Unit | None = None
    saved_microusd: int = 0
