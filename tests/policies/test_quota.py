"""Budgets: they are never overspent, and a call near their end gets what is left."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import Claim, Denied, Granted, Level, Limit, LimitSet
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from policies.quota import StrictQuota, create
from tests.support.calls import EMBEDDINGS, HELLO, a_call, a_limit, a_model, a_route, a_target, priced

TOKENS = LimitSet(quota=(a_limit("tokens", 100_000),))


@pytest.mark.parametrize(
    ("model_caps", "members", "cap", "told"),
    [
        ((None,), {}, 4096, 4096),
        ((1000,), {}, 1000, 1000),
        ((1000, 500), {}, 500, 500),
        ((1000, None), {}, 1000, 1000),
        ((1000,), {"max_tokens": 50}, 50, 50),
        ((1000,), {"max_tokens": 5000}, 1000, 1000),
        ((None,), {"max_tokens": 50_000}, 50_000, 50_000),
    ],
    ids=["default", "model's", "least of two", "one has one", "client's", "lowered to the model's", "client's, large"],
)
def test_a_budget_needs_an_output_cap_and_has_the_upstream_told_it(
    model_caps: tuple[int | None, ...], members: dict[str, int], cap: int, told: int | None
) -> None:
    route = a_route(*[a_target(a_model(max_output_tokens=most)) for most in model_caps])
    call = a_call(HELLO | members, route=route, limits=TOKENS)
    create({}).check(call)
    assert call.demand.output_cap == cap
    assert call.demand.cap_to_write == told
    (claim,) = create({}).claims(call)
    assert claim.amount == call.demand.prompt_tokens + cap


@pytest.mark.parametrize(
    "limits",
    [LimitSet(), LimitSet(quota=(a_limit("requests", 5),)), LimitSet(quota=(a_limit("tokens", 5, action="warn"),))],
    ids=["no limit", "only requests", "only a warning"],
)
def test_where_no_budget_binds_nobodys_answers_are_cut_short(limits: LimitSet) -> None:
    call = a_call(limits=limits)
    create({}).check(call)
    assert call.demand.output_cap is None


def test_an_endpoint_without_output_is_not_capped() -> None:
    call = a_call({"model": "m", "input": "x"}, endpoint=EMBEDDINGS, limits=TOKENS)
    create({}).check(call)
    assert call.demand.output_cap is None
    assert create({}).claims(call)[0].amount == call.demand.prompt_tokens


def test_default_output_tokens_is_the_operators_to_choose() -> None:
    call = a_call(limits=TOKENS)
    create({"default_output_tokens": 77}).check(call)
    assert call.demand.output_cap == 77


def checked(limit: Limit, *, members: dict[str, Any], prices: tuple[int, int], policy: StrictQuota) -> Any:
    route = a_route(a_target(a_model(prices=priced(*prices))))
    call = a_call(HELLO | members, route=route, limits=LimitSet(quota=(limit,)))
    policy.check(call)
    return call


@given(
    metric=st.sampled_from(["tokens", "cost"]),
    amount=st.integers(1, 10**7),
    used=st.integers(0, 10**7),
    choices=st.integers(1, 8),
    default=st.integers(1, 10**6),
    least=st.integers(1, 100),
    prices=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_a_shrunk_call_fits_what_is_left_and_one_token_more_would_not(
    metric: Any, amount: int, used: int, choices: int, default: int, least: int, prices: tuple[int, int]
) -> None:
    limit = a_limit(metric, amount)
    level = Level(limit, used, 60)
    policy = create({"default_output_tokens": default, "min_output_tokens": least})
    call = checked(limit, members={"n": choices}, prices=prices, policy=policy)
    before = call.demand.output_cap
    if policy.claims(call)[0].amount <= level.remaining:
        return  # it would not have been denied
    if policy.shrink(call, level):
        cap = call.demand.output_cap
        assert least <= cap < before
        assert policy.claims(call)[0].amount <= level.remaining
        one_more = _amount(call, metric, cap + 1)
        assert one_more > level.remaining
    else:
        assert call.demand.output_cap == before, "a refusal changes nothing"
        assert _amount(call, metric, least) > level.remaining, "the least that may be given did not fit either"


def _amount(call: Any, metric: str, cap: int) -> int:
    demand = call.demand
    output = cap * demand.choices
    if metric == "tokens":
        return int(demand.prompt_tokens + output)
    return int(demand.price.cost(demand.prompt_tokens, output))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 3000))
async def test_calls_that_race_for_a_budget_never_hold_more_than_it_has(wants: list[int], amount: int) -> None:
    limit = a_limit("tokens", amount)
    store, policy = MemoryStore(Calendar(ZoneInfo("UTC"))), create({"default_output_tokens": 300})
    for number, want in enumerate(wants):
        members = {"max_tokens": want} if want % 2 else {}
        call = checked(limit, members=members, prices=(0, 0), policy=policy)
        verdict = await store.reserve(f"r{number}", policy.claims(call), 60, store.now())
        if isinstance(verdict, Denied) and policy.shrink(call, verdict.level):
            verdict = await store.reserve(f"r{number}", policy.claims(call), 60, store.now())
            assert isinstance(verdict, Granted), "a shrunk call finds room"
        (level,) = await store.peek([limit])
        assert level.used <= amount


def test_a_cap_the_client_chose_is_not_shrunk_behind_its_back() -> None:
    call = checked(a_limit("tokens", 500), members={"max_tokens": 900}, prices=(0, 0), policy=create({}))
    assert create({}).shrink(call, Level(a_limit("tokens", 500), 0, 60)) is False
    assert call.demand.output_cap == 900


@pytest.mark.parametrize("metric", ["requests"])
def test_what_does_not_depend_on_length_cannot_shrink(metric: Any) -> None:
    call = checked(a_limit("tokens", 10**6), members={}, prices=(0, 0), policy=create({}))
    assert create({}).shrink(call, Level(a_limit(metric, 5), 5, 60)) is False


def test_a_limit_that_warns_is_claimed_like_any_other() -> None:
    limit = a_limit("tokens", 5, action="shadow")
    call = checked(limit, members={}, prices=(0, 0), policy=create({}))
    assert create({}).claims(call) == [Claim(limit, call.demand.amounts["tokens"])]


@pytest.mark.parametrize(
    ("limit", "resets_in", "words"),
    [
        (a_limit("tokens", 1000, "day"), 60, ["department research", "limit 1000 tokens per day", "resets in 60 s"]),
        (a_limit("cost", 12_500_000, "month"), 60, ["$12.5 per month", "$0.000001 used or held"]),
        (a_limit("requests", 3, "total"), None, ["3 requests in total", "does not reset"]),
        (a_limit("requests", 3, "hour", scope="global", subject=""), 9, ["Quota of global used up"]),
    ],
)
def test_a_budget_that_is_used_up_says_scope_limit_used_and_reset(
    limit: Limit, resets_in: int | None, words: list[str]
) -> None:
    error = create({}).denied(a_call(), Level(limit, 1, resets_in))
    assert (error.status, error.code, error.type) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"
    assert error.headers.get("retry-after") == (None if resets_in is None else str(resets_in))
    for word in words:
        assert word in error.message, error.message


# Balanced


BALANCED = {"estimate": "balanced"}
LONG: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x" * 4_000}]}


@pytest.mark.parametrize(
    ("model_cap", "members", "output", "told"),
    [
        (None, {}, 1024, None),
        (None, {"n": 3}, 3 * 1024, None),
        (None, {"max_tokens": 50}, 50, None),
        (None, {"max_tokens": 9000}, 1024, None),
        (500, {}, 500, 500),
        (2000, {}, 1024, 2000),
        (2000, {"max_tokens": 9000}, 1024, 2000),
    ],
    ids=["nobody's cap", "choices", "client's, low", "client's, high", "model's, low", "model's, high", "lowered"],
)
def test_a_balanced_budget_holds_what_is_likely_and_tells_the_upstream_no_cap_of_its_own(
    model_cap: int | None, members: dict[str, int], output: int, told: int | None
) -> None:
    route = a_route(a_target(a_model(max_output_tokens=model_cap)))
    call = a_call(LONG | members, route=route, limits=TOKENS)
    create(BALANCED).check(call)
    assert call.demand.cap_to_write == told
    (claim,) = create(BALANCED).claims(call)
    prompt = claim.amount - output
    assert 1_200 <= prompt < 1_300, "a fifth more than a quarter of its bytes"
    assert prompt < call.demand.prompt_tokens // 3


def test_margin_and_expected_output_are_the_operators_to_choose() -> None:
    policy = create(BALANCED | {"margin": 2, "expected_output_tokens": 10})
    call = a_call(LONG, limits=TOKENS)
    policy.check(call)
    assert 2_010 <= policy.claims(call)[0].amount < 2_110


@given(
    length=st.integers(0, 5_000),
    cap=st.none() | st.integers(1, 10_000),
    margin=st.floats(1, 100),
    expected=st.integers(1, 10_000),
    window=st.none() | st.integers(1, 10_000),
)
def test_balanced_never_holds_more_than_strict(
    length: int, cap: int | None, margin: float, expected: int, window: int | None
) -> None:
    members = {} if cap is None else {"max_tokens": cap}
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * length}], **members}
    route = a_route(a_target(a_model(prices=priced(3, 7), context_window=window)))
    strict, balanced = (a_call(body, route=route, limits=TOKENS) for _ in range(2))
    create({"default_output_tokens": max(expected, 1)}).check(strict)
    create(BALANCED | {"margin": margin, "expected_output_tokens": expected}).check(balanced)
    for metric, amount in balanced.demand.amounts.items():
        assert amount <= strict.demand.amounts[metric]
    assert balanced.demand.amounts["tokens"] >= 1


def test_a_balanced_call_near_the_end_of_a_budget_is_refused_rather_than_cut_short() -> None:
    call = a_call(LONG, limits=TOKENS)
    policy = create(BALANCED)
    policy.check(call)
    assert not hasattr(policy, "shrink")
    error = policy.denied(call, Level(TOKENS.quota[0], 99_999, 60))
    assert f"may need {call.demand.amounts['tokens']} tokens" in error.message


def test_media_are_likely_to_need_far_less_than_they_may() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}
    call = a_call({"model": "m", "messages": [{"role": "user", "content": [image]}]}, limits=TOKENS)
    create(BALANCED | {"expected_output_tokens": 1}).check(call)
    assert 1_200 <= call.demand.amounts["tokens"] < 1_300
    assert call.demand.prompt_tokens >= 50_000


def test_an_endpoint_without_output_is_expected_to_have_none() -> None:
    call = a_call({"model": "m", "input": "x" * 400}, endpoint=EMBEDDINGS, limits=TOKENS)
    create(BALANCED).check(call)
    assert 120 <= call.demand.amounts["tokens"] <= 122


def test_without_a_budget_a_balanced_policy_changes_nothing() -> None:
    call = a_call(LONG, limits=LimitSet(quota=(a_limit("requests", 5),)))
    create(BALANCED).check(call)
    assert call.demand.amounts["tokens"] >= 4_000
