"""Rows for calls of which nobody has noted the end."""

from __future__ import annotations

from gateway.core.records import IntentRecord, OutcomeRecord


def orphan(intent: IntentRecord) -> OutcomeRecord:
    """The row of a call that a dead process had under way, or whose end a disk has not given back.

    What the upstream produced, and whether it was asked at all, is not known, so the row claims nothing: no tokens,
    no usage source, no cost and, since no answer was completed, no status. Its outcome is `upstream_error`, the one
    of the four that promises the client nothing; its kind tells it from a failure that was seen.
    """
    return OutcomeRecord(
        request_id=intent.request_id,
        kind="orphan",
        created_at=intent.created_at,
        user=intent.user,
        department=intent.department,
        key_id=intent.key_id,
        endpoint=intent.endpoint,
        model_id=intent.model_id,
        provider=intent.provider,
        upstream_model=intent.upstream_model,
        streamed=intent.streamed,
        status=0,
        outcome="upstream_error",
        prompt_tokens=None,
        completion_tokens=None,
        cached_tokens=None,
        reasoning_tokens=None,
        usage_source=None,
        cost_microusd=0,
        price_version=intent.price_version,
        latency_ms=0,
        first_token_ms=None,
        reserved_tokens=intent.reserved_tokens,
        reserved_cost=intent.reserved_cost,
    )
