"""Places for calls that run at once."""

from gateway.core.limits import Level, LimitSet
from policies.concurrency import create
from tests.support.calls import HELLO, a_call, a_limit

PLACES = LimitSet(
    rate=(a_limit("requests", 10, "minute"),),
    parallel=(a_limit("parallel", 2), a_limit("parallel", 5, scope="global", subject="")),
)


def test_a_call_takes_one_place_of_each_limit_however_much_it_asks_for() -> None:
    call = a_call(HELLO | {"n": 100}, limits=PLACES)
    create({}).check(call)
    assert [(claim.limit.scope, claim.amount) for claim in create({}).claims(call)] == [
        ("department", 1),
        ("global", 1),
    ]


def test_a_caller_without_a_place_is_told_to_wait_for_one() -> None:
    error = create({}).denied(a_call(), Level(PLACES.parallel[0], 2, None))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.headers["retry-after"] == "1"
    assert "department research already runs 2 calls" in error.message
    assert "x-should-retry" not in error.headers
