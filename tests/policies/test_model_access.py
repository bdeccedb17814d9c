"""A key with a list of models sees those and no others."""

import pytest

from gateway.core.errors import GatewayError
from gateway.core.limits import Level
from gateway.core.principal import Principal
from policies.model_access import create
from tests.support.calls import a_call, a_limit

POLICY = create({})


def caller(*models: str) -> Principal:
    return Principal("k1", "ada@example.com", "research", frozenset(models))


def test_a_key_without_a_list_may_use_every_model() -> None:
    POLICY.check(a_call())


def test_a_model_on_the_list_passes() -> None:
    POLICY.check(a_call(principal=caller("m", "other")))


@pytest.mark.parametrize("models", [("other",), ("M",), ()])
def test_a_model_off_the_list_does_not_exist(models: tuple[str, ...]) -> None:
    with pytest.raises(GatewayError) as refused:
        POLICY.check(a_call(principal=caller(*models)))
    assert (refused.value.status, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
    assert "other" not in refused.value.message, "it tells nothing about the list"


def test_it_claims_nothing_and_so_can_be_denied_nothing() -> None:
    call = a_call()
    assert POLICY.claims(call) == ()
    assert POLICY.denied(call, Level(a_limit(), 0, None)).status == 500
