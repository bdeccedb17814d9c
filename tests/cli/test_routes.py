"""`aidock routes`: what is configured, where a call would go, and how the running gateway's deployments fare."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import Shell
from tests.support.gateway import chat, free_port, running_gateway

CONFIG = """
providers:
  many: {base_url: 'http://127.0.0.1:9/v1', api_keys: [sk-secret-one-0123456789, sk-secret-two-0123456789]}
  one: {base_url: 'http://127.0.0.1:9/v1'}
models:
  - {model_id: big, provider: many, price: {input: 3, output: 15}}
  - {model_id: small, provider: one, price: {input: 1, output: 2}, fallbacks: [big]}
  - {model_id: long, provider: one}
routes:
  smart:
    strategy: cost
    targets: [{model: big, weight: 3}, {model: small}]
    fallbacks: {default: [long], context_window: [long], quota: []}
"""


def test_routes_are_listed_with_their_fallbacks(shell: Shell) -> None:
    shell.write("aidock.yaml", CONFIG)
    rows = {row["name"]: row for row in shell.ok("routes", "list", "--config", "aidock.yaml", "--json").json}
    assert rows["smart"] == {
        "name": "smart",
        "strategy": "cost",
        "targets": ["big", "small"],
        "deployments": 3,
        "fallbacks": {"default": ["long"], "context_window": ["long"], "quota": []},
    }
    assert rows["small"]["fallbacks"] == {"default": ["big"]}
    shown = shell.ok("routes", "list", "--config", "aidock.yaml").out
    assert "default: long; context_window: long; quota: none" in shown


def test_an_explanation_says_the_order_and_what_follows_each_failure(shell: Shell) -> None:
    shell.write("aidock.yaml", CONFIG)
    found = shell.ok("routes", "explain", "smart", "--config", "aidock.yaml", "--json").json
    assert [(each["model"], each["key"]) for each in found["targets"]] == [("small", None), ("big", 1), ("big", 2)]
    assert found["health_from"] is None
    assert found["begins"]["model"] == "small"
    goes_to = {kind: leg and (leg["model"], leg["fallback"]) for kind, leg in found["after"].items()}
    assert goes_to["timeout"] == ("big", None)
    assert goes_to["context_window"] == ("long", "context_window")
    assert goes_to["quota"] is None
    shown = shell.ok("routes", "explain", "smart", "--config", "aidock.yaml").out
    assert "A call begins with: small" in shown
    assert "long (fallback: context_window)" in shown
    assert "secret" not in shown + str(found), "a key is told by its number"


def test_by_weight_shares_are_told_and_keys_share_theirs(shell: Shell) -> None:
    shell.write("aidock.yaml", CONFIG.replace("strategy: cost", "strategy: weight"))
    found = shell.ok("routes", "explain", "smart", "--config", "aidock.yaml", "--json").json
    assert [each["share"] for each in found["targets"]] == [0.375, 0.375, 0.25]


def test_a_name_that_is_none_is_a_no_with_what_was_meant(shell: Shell) -> None:
    shell.write("aidock.yaml", CONFIG)
    refused = shell.aidock("routes", "explain", "smrt", "--config", "aidock.yaml")
    assert (refused.code, refused.traceback) == (1, False)
    assert "Did you mean 'smart'?" in refused.err


async def test_health_is_asked_from_the_gateway_that_runs(tmp_path: Path) -> None:
    config = {
        "providers": {
            "dead": {"base_url": f"http://127.0.0.1:{free_port()}/v1", "max_retries": 0, "cooldown": {"failures": 1}},
            "demo": {"dialect": "demo"},
        },
        "models": [{"model_id": "dead", "provider": "dead"}, {"model_id": "demo", "provider": "demo"}],
        "routes": {"smart": {"strategy": "order", "targets": [{"model": "dead"}], "fallbacks": ["demo"]}},
    }
    with running_gateway(tmp_path, config) as gateway:
        answer = await gateway.ask("/v1/chat/completions", chat("Hello", model="smart"))
        assert answer.headers["x-aidock-attempts"] == "2"
        shown = await gateway.cli("routes", "explain", "smart")
        assert "health as the running gateway has it" in shown
        assert "resting" in shown
        assert "A call begins with: demo (fallback: error)" in shown
        assert await gateway.metric("aidock_deployment_up", model="dead", provider="dead") == 0
        assert await gateway.metric("aidock_deployment_up", model="demo", provider="demo") == 1
        answer = await gateway.ask("/v1/chat/completions", chat("Hello", model="smart"))
        assert answer.headers["x-aidock-attempts"] == "1", "what was explained is what happens"
