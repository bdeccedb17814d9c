"""Access tokens, whoever gives them: when one is fetched, how long it is kept, what happens where none can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.core.errors import GatewayError, upstream_error
from gateway.core.upstream import FailureKind, UpstreamFailure
from providers._tokens import LONGEST_S, MARGIN_S, YOUNG_S, Question, Tokens
from tests.providers.calls import a_target
from tests.providers.tokens import Endpoint, form_of, granted
from tests.support.until import until

TARGET = a_target(key=None)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _question(name: str) -> Question:
    return Question("http://127.0.0.1:7/some/token", {"who": name, "how": "a b&c=d"})


async def _nothing_to_ask(name: str) -> Question:
    raise ValueError(f"the key of {name} is bent")


def some_tokens(clock: Clock | None = None) -> Tokens[str]:
    return Tokens(_question, "The Giver", "badge", clock or Clock())


async def test_a_form_is_posted_to_the_token_endpoint() -> None:
    endpoint = Endpoint(granted())
    assert await some_tokens().header("ada", TARGET, endpoint) == b"Bearer eyJ.a"
    (request,) = endpoint.asked
    assert (request.method, request.target, request.origin.port) == (b"POST", b"/some/token", 7)
    assert (b"content-type", b"application/x-www-form-urlencoded") in request.headers
    assert form_of(request) == {"who": "ada", "how": "a b&c=d"}


@pytest.mark.parametrize(
    ("lifetime", "kept_s"),
    [
        (3599, 3599 - MARGIN_S),
        (120, 60),
        (10, 5),
        (0.5, 0.25),
        (0, 0),
        (-5, 0),
        (10**30, LONGEST_S - MARGIN_S),
    ],
)
async def test_a_token_is_kept_until_shortly_before_its_end(lifetime: Any, kept_s: float) -> None:
    clock = Clock()
    tokens, endpoint = some_tokens(clock), Endpoint(granted("one", lifetime), granted("two"))
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer one"
    if kept_s:
        clock.now += kept_s - 0.01
        assert await tokens.header("ada", TARGET, endpoint) == b"Bearer one"
        clock.now += 0.02
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer two"


async def test_a_giver_that_does_not_say_how_long_means_an_hour() -> None:
    clock = Clock()
    tokens, endpoint = some_tokens(clock), Endpoint((200, b'{"access_token":"one"}'), granted("two"))
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer one"
    clock.now += 3500
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer one"
    clock.now += 60
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer two"


async def test_a_token_that_was_refused_is_given_up_unless_it_is_brand_new() -> None:
    clock = Clock()
    tokens, endpoint = some_tokens(clock), Endpoint(granted("one"), granted("two"))
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer one"
    clock.now += YOUNG_S
    old, new = upstream_error("401"), upstream_error("401")
    tokens.refused("ada", old)
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer two"
    tokens.refused("ada", new)  # the second, or of a call that left with the first
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer two"
    assert (old.headers.get("x-should-retry"), new.headers.get("x-should-retry")) == ("true", None)


async def test_credentials_do_not_share_a_token() -> None:
    tokens = some_tokens()
    assert await tokens.header("ada", TARGET, Endpoint(granted("one"))) == b"Bearer one"
    assert await tokens.header("bob", TARGET, Endpoint(granted("two"))) == b"Bearer two"
    assert await tokens.header("ada", TARGET, Endpoint()) == b"Bearer one"


async def test_tokens_of_configurations_long_gone_are_not_kept_for_ever() -> None:
    tokens = some_tokens()
    endpoint = Endpoint(*[granted()] * 1001)
    for number in range(1000):
        await tokens.header(str(number), TARGET, endpoint)
    assert len(tokens._tokens) <= 256
    await tokens.header("0", TARGET, endpoint)
    assert len(endpoint.asked) == 1001


@pytest.mark.parametrize("before", [0, 1], ids=["the first token", "a token that has ended"])
async def test_calls_that_need_a_token_at_once_share_one_fetch_even_if_the_first_leaves(before: int) -> None:
    clock, waits = Clock(), asyncio.Event()
    tokens, endpoint = some_tokens(clock), Endpoint(granted(), waits=waits)
    if before:
        await tokens.header("ada", TARGET, Endpoint(granted("old", 10)))
        clock.now += 10
    calls = [asyncio.create_task(tokens.header("ada", TARGET, endpoint)) for _ in range(50)]
    await until(lambda: bool(endpoint.asked))
    calls[0].cancel()
    await asyncio.sleep(0)
    waits.set()
    assert await asyncio.gather(*calls[1:]) == [b"Bearer eyJ.a"] * 49
    assert calls[0].cancelled()
    assert len(endpoint.asked) == 1


async def test_a_failed_fetch_fails_those_who_wait_and_nobody_after_them() -> None:
    tokens, endpoint = some_tokens(), Endpoint((500, b"oops"), granted())
    failed = await asyncio.gather(*[tokens.header("ada", TARGET, endpoint) for _ in range(3)], return_exceptions=True)
    assert [isinstance(error, GatewayError) and error.status for error in failed] == [502] * 3
    assert await tokens.header("ada", TARGET, endpoint) == b"Bearer eyJ.a"


async def test_a_credential_with_which_nothing_can_be_asked_is_the_administrators_affair() -> None:
    with pytest.raises(GatewayError, match=r"'corp' cannot be asked: the key of ada is bent\. An administrator"):
        await Tokens(_nothing_to_ask, "The Giver", "badge").header("ada", TARGET, Endpoint())


def failure(kind: FailureKind) -> UpstreamFailure:
    return UpstreamFailure(kind, "broke")


@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ([(400, b'{"error":"invalid_grant"}')], 502, "The Giver refused the gateway's badge.*administrator"),
        ([(401, b'{"error":"invalid_client"}')], 502, "The Giver refused the gateway's badge.*administrator"),
        ([(302, b"")], 502, "no access token"),
        ([(503, b"")], 502, "no access token"),
        ([(429, b"{}")], 502, "no access token"),
        ([(200, b"<html>")], 502, "no access token"),
        ([(200, b"[]")], 502, "no access token"),
        ([(200, b'{"access_token":""}')], 502, "no access token"),
        ([(200, b'{"access_token":"a","expires_in":"soon"}')], 502, "no access token"),
        ([(200, b'{"access_token":"a","expires_in":true}')], 502, "no access token"),
        ([(200, b"x" * 200_000)], 502, "no access token"),
        ([failure("connect")], 502, "cannot be reached"),
        ([failure("first_byte_timeout")], 504, "in time"),
    ],
)
async def test_a_token_that_cannot_be_had_is_told_without_secrets(
    answers: Sequence[tuple[int, bytes] | UpstreamFailure], status: int, says: str
) -> None:
    with pytest.raises(GatewayError, match=says) as caught:
        await some_tokens().header("ada", TARGET, Endpoint(*answers))
    assert caught.value.status == status
    assert (caught.value.headers.get("x-should-retry") == "false") is ("administrator" in says)
    assert "127.0.0.1" not in caught.value.message
    assert "ada" not in caught.value.message
