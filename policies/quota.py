"""Budgets: requests, tokens and cost per hour, day, month or in total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, invalid_request, quota_exhausted
from gateway.core.limits import Claim, Level, Metric
from gateway.core.money import dollars
from gateway.core.ports import OnStoreError
from policies._settings import Settings


class _Budgets:
    """What both kinds of estimate share: which limits are held, and how a refusal is worded."""

    name = "quota"

    def __init__(self, on_store_error: OnStoreError) -> None:
        self.on_store_error: OnStoreError = on_store_error

    def claims(self, call: Call) -> Sequence[Claim]:
        amounts = call.demand.amounts
        return [Claim(limit, amounts[limit.metric]) for limit in call.limits.quota]

    def denied(self, call: Call, level: Level) -> GatewayError:
        limit = level.limit
        reset = "It does not reset" if level.resets_in is None else f"It resets in {level.resets_in} s"
        window = "in total" if limit.window == "total" else f"per {limit.window}"
        metric: Metric = limit.metric
        needed = call.demand.amounts[metric]
        return quota_exhausted(
            f"Quota of {limit.label} used up: limit {_show(metric, limit.amount)} {window}, "
            f"{_show(metric, level.used)} used or held, this call may need {_show(metric, needed)}. "
            f"{reset}; ask your administrator for more.",
            level.resets_in,
        )


class StrictQuota(_Budgets):
    """Holds the most a call can use, so that no budget is overspent however many calls race for its last token.

    That needs an output cap that the upstream keeps to: where a limit on tokens or cost binds it is told one in its
    own words, the client's, else the model's own or `default_output_tokens`.
    """

    def __init__(self, on_store_error: OnStoreError, default_output_tokens: int, min_output_tokens: int) -> None:
        super().__init__(on_store_error)
        self._default_output = default_output_tokens
        self._min_output = min_output_tokens

    def check(self, call: Call) -> None:
        if not _budgeted(call):
            return
        if not call.demand.bounded:
            raise invalid_request(
                "A budget binds this call, but it continues a conversation whose size only the provider knows. Send "
                "the whole conversation as 'input', or ask your administrator to state the model's context_window.",
                param="previous_response_id",
            )
        _cap_by_models(call)
        if call.endpoint.caps:
            if call.demand.output_cap is None:
                call.demand.cap_output(self._default_output)
            call.demand.rely_on_cap()

    def shrink(self, call: Call, level: Level) -> bool:
        """Lower a cap that the client did not choose to what is left. False where that would leave too little."""
        demand = call.demand
        if demand.requested_cap is not None or demand.output_cap is None:
            return False
        affordable = _affordable_output(call, level)
        if affordable < self._min_output or affordable >= demand.output_cap:
            return False
        demand.cap_output(affordable)
        return True


class BalancedQuota(_Budgets):
    """Holds what a call is likely to use, and cuts no answer short for it: more calls fit into a budget at once, and
    those that run when it ends may overspend it by what they use beyond what they held."""

    def __init__(self, on_store_error: OnStoreError, margin: float, expected_output_tokens: int) -> None:
        super().__init__(on_store_error)
        self._margin = margin
        self._expected_output = expected_output_tokens

    def check(self, call: Call) -> None:
        if _budgeted(call):
            _cap_by_models(call)
            demand = call.demand
            demand.reserve_likely(self._margin, self._expected_output if call.endpoint.caps else demand.expected_output)


def _budgeted(call: Call) -> bool:
    """Whether a limit on tokens or cost can refuse the call."""
    return any(limit.metric in ("tokens", "cost") and limit.action == "deny" for limit in call.limits.quota)


def _cap_by_models(call: Call) -> None:
    """Lower the cap to what every model that may serve the call can write."""
    if not call.endpoint.caps:
        return
    for target in call.route.every_target:
        if target.model.max_output_tokens is not None:
            call.demand.cap_output(target.model.max_output_tokens)


def _affordable_output(call: Call, level: Level) -> int:
    """Output tokens for each choice that fit into what a tokens or cost limit has left."""
    demand, room = call.demand, level.remaining
    match level.limit.metric:
        case "tokens":
            return (room - demand.prompt_tokens) // demand.choices
        case "cost" if demand.price.output:
            left = room * 1_000_000 - demand.prompt_tokens * demand.price.input
            return left // (demand.price.output * demand.choices)
    return 0


def _show(metric: Metric, amount: int) -> str:
    return f"${dollars(amount):f}" if metric == "cost" else f"{amount} {metric}"


def create(settings: Mapping[str, object]) -> StrictQuota | BalancedQuota:
    """Settings: `on_store_error` (deny); `estimate` (strict) or balanced.

    Strict: `default_output_tokens` (4096) caps answers whose length nobody limited, `min_output_tokens` (16) is the
    least a cap may shrink to near the end of a budget. Balanced: `margin` (1.2) times the likely prompt is held, and
    `expected_output_tokens` (1024) an answer where its cap is not lower.
    """
    taken = Settings("quota", settings)
    on_store_error = taken.on_store_error("deny")
    made: StrictQuota | BalancedQuota
    if taken.choice("estimate", "strict", "balanced") == "balanced":
        made = BalancedQuota(on_store_error, taken.factor("margin", 1.2), taken.count("expected_output_tokens", 1024))
    else:
        made = StrictQuota(
            on_store_error, taken.count("default_output_tokens", 4096), taken.count("min_output_tokens", 16)
        )
    taken.done()
    return made
