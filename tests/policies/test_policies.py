"""What holds for every policy: how it is made, what it says of a store that is down, and how it refuses settings."""

import pytest

from gateway import plugins
from gateway.core.limits import LimitSet
from gateway.core.ports import OnStoreError, Policy
from tests.support.calls import a_call, a_limit

EVERY = sorted(plugins.names("policies"))
EVERY_LIMIT = LimitSet(
    rate=(a_limit("requests", 10, "minute"),), quota=(a_limit("tokens"),), parallel=(a_limit("parallel", 2),)
)


@pytest.fixture(params=EVERY)
def policy(request: pytest.FixtureRequest) -> Policy:
    return plugins.policy(request.param, {})


def test_a_policy_is_named_like_its_file(policy: Policy) -> None:
    assert policy.name in EVERY


def test_a_policy_lets_an_ordinary_call_through_and_claims_limits_of_its_own(policy: Policy) -> None:
    call = a_call(limits=EVERY_LIMIT)
    policy.check(call)
    for limit, amount in policy.claims(call):
        assert limit in (*EVERY_LIMIT.rate, *EVERY_LIMIT.quota, *EVERY_LIMIT.parallel)
        assert amount >= 1


def test_no_two_policies_claim_the_same_limit() -> None:
    call = a_call(limits=EVERY_LIMIT)
    claimed = [claim.limit for name in EVERY for claim in plugins.policy(name, {}).claims(call)]
    assert len(claimed) == len(set(claimed)) == 3, "and none goes unclaimed"


def test_without_limits_nothing_is_claimed(policy: Policy) -> None:
    assert list(policy.claims(a_call())) == []


@pytest.mark.parametrize(
    ("name", "default"),
    [("rate_limit", "allow"), ("concurrency", "allow"), ("quota", "deny"), ("model_access", "deny")],
)
def test_a_store_that_is_down_stops_budgets_and_not_rates(name: str, default: OnStoreError) -> None:
    assert plugins.policy(name, {}).on_store_error == default
    if name != "model_access":
        for choice in ("allow", "deny"):
            assert plugins.policy(name, {"on_store_error": choice}).on_store_error == choice


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("quota", {"on_store_error": "perhaps"}, "quota.on_store_error must be deny or allow"),
        ("quota", {"default_output_tokens": 0}, "quota.default_output_tokens must be a positive integer"),
        ("quota", {"min_output_tokens": True}, "quota.min_output_tokens must be a positive integer"),
        ("quota", {"default_output_tokens": "many"}, "quota.default_output_tokens must be a positive integer"),
        ("rate_limit", {"expected_output_tokens": 1.5}, "rate_limit.expected_output_tokens must be a positive integer"),
        ("rate_limit", {"speed": 1, "burst": 2}, "rate_limit has no setting burst, speed; it has: on_store_error"),
        ("concurrency", {"on_store_error": None}, "concurrency.on_store_error must be deny or allow"),
        ("concurrency", {"places": 3}, "concurrency has no setting places; it has: on_store_error"),
        ("model_access", {"list": []}, "model_access takes no settings, got: list"),
        ("quota", {"estimate": "loose"}, "quota.estimate must be strict or balanced"),
        ("quota", {"estimate": "balanced", "margin": 0.5}, "quota.margin must be a number from 1 to 100"),
        ("quota", {"estimate": "balanced", "margin": True}, "quota.margin must be a number from 1 to 100"),
        ("quota", {"margin": 1.2}, "quota has no setting margin; it has: on_store_error, estimate, default_output"),
        ("model_access", {"shadow": "yes"}, "model_access.shadow must be true or false"),
        ("rate_limit", {"shadow": 1}, "rate_limit.shadow must be true or false"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_could_be(name: str, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plugins.policy(name, settings)
