"""An upstream that fails while another stands by: clients see nothing of it, and every attempt is in the books."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import SILENT, BillingUpstream, Plan, billing_upstream
from tests.support.gateway import Gateway, chat, running_gateway, running_gateways
from tests.support.redis_server import RedisServer
from tests.support.until import until

CLIENTS = 60 if SOAK else 12
LOAD_S = 20.0 if SOAK else 1.0
PLANS = (Plan(chunks=4), Plan(chunks=8, every=5))

BEFORE_CONTENT = {
    "503": Plan(status=503),
    "429": Plan(status=429),
    "401": Plan(status=401),
    "cut in the head of the answer": Plan(chunks=4, cut=20),
    "silence": SILENT,
}


@pytest.fixture
def spare() -> Iterator[BillingUpstream]:
    with billing_upstream() as running:
        yield running


def with_a_spare(upstream: BillingUpstream, spare: BillingUpstream, *, rests: int = 0, **how: Any) -> dict[str, Any]:
    """`billed` shares the route `safe` with nobody, and `spare` stands by at another price. Nothing rests, unless
    told after how many failures, and then for half a second."""
    config = configuration(upstream, **how)
    first = config["providers"]["billed"]
    cooldown = {"failures": rests, "seconds": 0.5}
    config["providers"] = {
        "billed": {**first, "first_byte_timeout": 0.5, "idle_timeout": 0.5, "cooldown": cooldown},
        "spare": {**first, "base_url": spare.url, "api_key": "sk-spare-0123456789abcdef"},
    }
    price = {"input": 3.0, "output": 5.0}
    config["models"].append({"model_id": "spare", "provider": "spare", "upstream_model": "billed", "price": price})
    config["routes"] = {"safe": {"targets": [{"model": "billed"}], "fallbacks": ["spare"]}}
    return config


def by_request(gateway: Gateway) -> dict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in gateway.rows():
        found[row["request_id"][:36]].append(row)
    return found


@pytest.mark.parametrize("plan", BEFORE_CONTENT.values(), ids=BEFORE_CONTENT)
async def test_a_failure_before_the_first_content_is_not_seen_and_both_attempts_are_booked(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path, plan: Plan
) -> None:
    upstream.always = plan
    with running_gateway(tmp_path, with_a_spare(upstream, spare)) as gateway:
        who = await caller(gateway, model="safe")
        await asyncio.gather(*(who.call(gateway.port, each, stream=n % 2 > 0) for n, each in enumerate(PLANS * 3)))
        assert all(seen.whole for seen in who.seen)
        await Books(upstream, [gateway], [who], [spare]).agree(f"first upstream: {plan.status}, cut {plan.cut}")
        for rows in by_request(gateway).values():
            failed, taken = sorted(rows, key=lambda row: len(row["request_id"]))
            assert (failed["model_id"], failed["provider"], failed["kind"]) == ("safe", "billed", "refund")
            assert (taken["model_id"], taken["provider"], taken["kind"]) == ("spare", "spare", "charge")
            assert taken["cost_microusd"] == 3 * taken["prompt_tokens"] + 5 * taken["completion_tokens"]
        assert gateway.errors() == []


async def test_a_failure_after_the_first_content_is_told_and_what_was_produced_is_charged(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    upstream.always = Plan(chunks=9, stall=4)
    with running_gateway(tmp_path, with_a_spare(upstream, spare)) as gateway:
        who = await caller(gateway, model="safe")
        await asyncio.gather(*(who.call(gateway.port, Plan()) for _ in range(6)))
        assert {seen.error for seen in who.seen} == {"upstream_timeout"}
        assert spare.bills == []
        await Books(upstream, [gateway], [who], [spare]).agree("stalls after content")
        assert {(row["kind"], row["usage_source"]) for row in gateway.rows()} == {("charge", "estimated")}
        assert all(4 <= row["completion_tokens"] <= 5 for row in gateway.rows())


async def test_a_fallback_that_the_callers_budget_has_no_room_for_is_not_taken(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    """The dearer fallback is held for at its own price, on the limits of its own name."""
    upstream.always = Plan(status=500)
    quota = {"scope": "model", "subject": "spare", "metric": "requests", "limit": 4, "window": "total"}
    with running_gateway(tmp_path, with_a_spare(upstream, spare, quotas=[quota])) as gateway:
        who = await caller(gateway, model="safe")
        for _ in range(7):
            await who.call(gateway.port, Plan())
        assert Counter(seen.whole for seen in who.seen) == {True: 4, False: 3}
        assert {seen.error for seen in who.seen} == {"", "upstream_error"}, "the first failure is what is told"
        await Books(upstream, [gateway], [who], [spare]).agree("fallback's quota is used up")
        assert len(spare.bills) == 4


async def flapping(upstream: BillingUpstream, ending: asyncio.Event) -> None:
    """Well and ill by turns, in every way."""
    ways = [None, *BEFORE_CONTENT.values()]
    turn = 0
    while not ending.is_set():
        upstream.always = ways[turn % len(ways)]
        turn += 1
        await asyncio.sleep(0.15)
    upstream.always = None


async def test_no_client_sees_an_upstream_that_comes_and_goes_and_the_books_agree(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, with_a_spare(upstream, spare, rests=3)) as gateway:
        who = await caller(gateway, model="safe")
        ending = asyncio.Event()
        coming_and_going = asyncio.create_task(flapping(upstream, ending))
        async with load(who, [gateway.port], PLANS, callers=CLIENTS) as seen:
            await asyncio.sleep(2 * LOAD_S)
        ending.set()
        await coming_and_going
        broken = [each for each in seen if not each.whole]
        assert all(each.status == 200 for each in broken), "only what had begun may break"
        assert upstream.bills
        assert spare.bills
        await Books(upstream, [gateway], [who], [spare]).agree("upstream comes and goes")
        assert gateway.errors() == []


async def test_what_rests_is_tried_by_one_call_at_a_time(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    upstream.always = Plan(status=500)
    with running_gateway(tmp_path, with_a_spare(upstream, spare, rests=3)) as gateway:
        who = await caller(gateway, model="safe")
        for _ in range(3):
            await who.call(gateway.port, Plan())
        asked = len(upstream.bills)
        assert asked == 3
        upstream.always = Plan(status=500, first=150)
        async with load(who, [gateway.port], [Plan()], callers=CLIENTS) as seen:
            await asyncio.sleep(2.0)
        assert len(seen) > 50
        tried = len(upstream.bills) - asked
        assert 1 <= tried <= 4, "half a second of rest, then one call that takes 0.15 s, and so on"
        upstream.always = None

        async def well_again() -> bool:
            await who.call(gateway.port, Plan())
            return any(bill.whole for bill in upstream.bills)

        await until(well_again)
        await Books(upstream, [gateway], [who], [spare]).agree("half-open")


async def test_calls_of_a_gateway_that_is_killed_between_two_models_are_booked_once(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    upstream.always = Plan(status=503, first=20)
    with running_gateway(tmp_path, with_a_spare(upstream, spare)) as gateway:
        who = await caller(gateway, model="safe")
        async with load(who, [gateway.port], (Plan(chunks=4, every=10), Plan(chunks=30, every=10)), callers=CLIENTS):
            for _ in range(5 if SOAK else 2):
                await asyncio.sleep(LOAD_S)
                gateway.kill()
                await asyncio.to_thread(gateway.start)
        await Books(upstream, [gateway], [who], [spare]).agree("kill -9 between attempts")
        kinds = Counter((row["provider"], row["kind"]) for row in gateway.rows())
        assert kinds["billed", "refund"]
        assert kinds["spare", "charge"]
        assert kinds["billed", "orphan"] + kinds["spare", "orphan"]


async def test_two_gateways_and_redis_agree_on_every_attempt(
    upstream: BillingUpstream, spare: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    upstream.always = Plan(status=503)
    gateways = fleet(tmp_path, with_a_spare(upstream, spare, redis=redis.url), one_host=True)
    with running_gateways(*gateways):
        who: Caller = await caller(gateways[0], model="safe")
        async with load(who, [gateway.port for gateway in gateways], PLANS, callers=CLIENTS) as seen:
            await asyncio.sleep(LOAD_S)
        assert all(each.whole for each in seen)
        await Books(upstream, gateways, [who], [spare]).agree("fallbacks with Redis")


async def test_a_key_is_good_for_its_call_whichever_model_the_request_begins_at(
    upstream: BillingUpstream, spare: BillingUpstream, tmp_path: Path
) -> None:
    config = with_a_spare(upstream, spare, rests=1)
    config["providers"]["billed"]["cooldown"]["seconds"] = 60
    body, key = chat(Plan(chunks=3).text("a"), "safe"), {"idempotency-key": "k"}
    with running_gateway(tmp_path, config) as gateway:
        async with gateway.client() as client:
            first = await client.post("/v1/chat/completions", json=body, headers=key)
            upstream.always = Plan(status=500)
            await client.post("/v1/chat/completions", json=chat(Plan(chunks=3).text("b"), "safe"))
            again = await client.post("/v1/chat/completions", json=body, headers=key)
        assert (first.status_code, again.status_code) == (200, 200)
        assert (again.headers["idempotent-replayed"], again.content) == ("true", first.content)
        assert (await gateway.reconcile())["equal"]


async def test_a_call_that_waited_for_its_minute_is_counted_on_the_model_that_it_falls_back_to(
    upstream: BillingUpstream, spare: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    quotas = [
        {"scope": "model", "subject": "safe", "metric": "requests", "limit": 1, "window": "minute"},
        {"scope": "model", "subject": "safe", "metric": "requests", "limit": 1, "window": "total"},
        {"scope": "model", "subject": "spare", "metric": "requests", "limit": 2, "window": "total"},
    ]
    config = with_a_spare(upstream, spare, quotas=quotas, redis=redis.url)
    config["routes"]["safe"]["fallbacks"] = {"quota": ["spare"]}
    config["policies"] = ["model_access", {"rate_limit": {"wait": 60}}, {"quota": {"on_store_error": "allow"}}]
    body = chat(Plan(chunks=3).text("a"), "safe")
    with running_gateway(tmp_path, config) as gateway:
        async with gateway.client(timeout=90) as client:
            first = await client.post("/v1/chat/completions", json=body)
            waited = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(4)))
        assert first.status_code == 200
        assert Counter(each.status_code for each in waited) == {200: 2, 429: 2}
        report = await gateway.reconcile()
        assert report["equal"], report
        unmetered = [value for name, _, value in await gateway.samples() if name.endswith("unmetered_total")]
        assert not any(unmetered)


async def test_who_leaves_while_it_waits_for_its_minute_leaves_its_place(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    quotas = [{"scope": "model", "subject": "billed", "metric": "requests", "limit": 1, "window": "minute"}]
    config = configuration(upstream, quotas=quotas, max_inflight=2, max_queue=0)
    config["policies"] = ["model_access", {"rate_limit": {"wait": 60}}, "quota"]
    body = chat(Plan(chunks=3).text("a"), "billed")
    with running_gateway(tmp_path, config) as gateway:
        async with gateway.client(timeout=90) as client:
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            leaving = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(2)]
            await asyncio.sleep(0.5)
            for each in leaving:
                each.cancel()
            await asyncio.wait(leaving)
            await asyncio.sleep(0.5)
            staying = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(2)]
            await asyncio.sleep(0.5)
            assert not [each.result().text for each in staying if each.done()], (
                "both have the places of those that left"
            )
            for each in staying:
                each.cancel()
        assert (await gateway.reconcile())["equal"]
        assert len(gateway.rows()) == 1
