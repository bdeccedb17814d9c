"""From a document to a snapshot: vendors, prices, routes, limits."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.core.deployment import CacheRule, Retries
from gateway.core.limits import Limit
from gateway.settings.compile import compile_document
from gateway.settings.load import load
from gateway.settings.problems import ConfigError
from tests.settings.configs import DIALECTS, POLICIES, compiled, write


def at(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, tzinfo=UTC).timestamp()


def test_without_models_there_is_the_free_demo() -> None:
    snapshot = compiled(None)
    (target,) = snapshot.routes["demo"].targets
    assert target.upstream.dialect == "demo"
    assert target.model.prices.at(at(2030, 1, 1)).cost(1_000_000, 1_000_000) == 0
    assert [entry.name for entry in snapshot.policies] == ["model_access", "rate_limit", "concurrency", "quota"]
    assert snapshot.origin is None


def test_a_model_of_its_own_address_brings_its_provider(tmp_path: Path) -> None:
    text = "models: [{model_id: local, base_url: 'http://127.0.0.1:11434/v1/', api_key_env_var: K}]"
    snapshot = compiled(write(tmp_path, text), {"K": "sk-1"})
    upstream = snapshot.upstreams["local"]
    assert (upstream.dialect, upstream.base_url, upstream.vendor) == ("openai", "http://127.0.0.1:11434/v1", "ollama")
    assert upstream.api_key is not None
    assert upstream.api_key.reveal() == "sk-1"
    assert snapshot.warnings == ()


def test_a_key_variable_that_is_not_set_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, "models:\n  - {model_id: a, base_url: http://h/v1, api_key_env_var: NOT_SET}\n")
    snapshot = compiled(path)
    assert snapshot.upstreams["a"].api_key is None
    assert snapshot.warnings == (
        f"{path}:2:59: models[0].api_key_env_var: environment variable NOT_SET is not set; calls go out without a key",
    )


@pytest.mark.parametrize(
    ("provider", "vendor", "address"),
    [
        ("groq: {}", "groq", "https://api.groq.com/openai/v1"),
        ("mine: {vendor: mistral}", "mistral", "https://api.mistral.ai/v1"),
        ("mine: {base_url: 'https://api.openai.com/v1'}", "openai", "https://api.openai.com/v1"),
        ("claude: {dialect: anthropic}", "anthropic", "https://api.anthropic.com"),
        ("groq: {base_url: 'http://gpu.internal/v1'}", None, "http://gpu.internal/v1"),
        ("az: {base_url: 'https://x.openai.azure.com/'}", "azure", "https://x.openai.azure.com"),
        ("az: {base_url: 'https://x.services.ai.azure.com'}", "azure", "https://x.services.ai.azure.com"),
        ("az: {base_url: 'https://x.openai.azure.us'}", "azure", "https://x.openai.azure.us"),
        (
            "v: {base_url: 'https://europe-west4-aiplatform.googleapis.com/v1'}",
            "vertex",
            "https://europe-west4-aiplatform.googleapis.com/v1",
        ),
        ("demo: {dialect: demo}", "demo", "http://demo.invalid"),
    ],
)
def test_a_vendor_is_known_by_name_address_or_dialect(
    provider: str, vendor: str | None, address: str, tmp_path: Path
) -> None:
    snapshot = compiled(write(tmp_path, f"providers:\n  {provider}\n"))
    upstream = snapshot.upstreams[provider.partition(":")[0]]
    assert (upstream.vendor, upstream.base_url) == (vendor, address)


def test_stated_quirks_outrank_the_vendors_row(tmp_path: Path) -> None:
    text = "providers: {mistral: {api_version: v9, quirks: {stream_options: true, drop: [a]}}}"
    quirks = compiled(write(tmp_path, text)).upstreams["mistral"].quirks
    assert quirks["stream_options"] is True
    assert quirks["drop"] == ("a",)
    assert quirks["rename"]["seed"] == "random_seed"
    assert quirks["api_version"] == "v9"


@pytest.mark.parametrize(
    ("address", "form"), [("https://x.example", "azure"), ("https://x.example/openai/v1/", "openai")]
)
def test_azure_has_a_dated_form_and_an_undated_one(address: str, form: str, tmp_path: Path) -> None:
    text = f"providers: {{az: {{vendor: azure, base_url: '{address}', api_version: 2024-10-21}}}}"
    quirks = compiled(write(tmp_path, text)).upstreams["az"].quirks
    assert (quirks["auth"], quirks["path"], quirks["api_version"]) == ("api-key", form, "2024-10-21")


def test_a_models_patience_outranks_its_providers(tmp_path: Path) -> None:
    text = """
providers: {up: {base_url: http://h/v1, connect_timeout: 1, idle_timeout: 2, max_retries: 0, on_client_gone: drain}}
models:
  - {model_id: plain, provider: up}
  - {model_id: own, provider: up, idle_timeout: 0.5, max_retries: 3, on_client_gone: cancel}
"""
    routes = compiled(write(tmp_path, text)).routes
    plain, own = routes["plain"].targets[0], routes["own"].targets[0]
    assert (plain.deadlines.connect, plain.deadlines.first_byte, plain.deadlines.idle) == (1, 600, 2)
    assert (plain.retries, plain.on_client_gone) == (Retries(0, 0, 0, 0), "drain")
    assert (own.deadlines.connect, own.deadlines.first_byte, own.deadlines.idle) == (1, 600, 0.5)
    assert (own.retries, own.on_client_gone) == (Retries(3, 3, 3, 0), "cancel")


def test_prices_come_from_the_model_else_the_book_else_are_nothing(tmp_path: Path) -> None:
    text = """
providers: {openai: {api_key: k}, inhouse: {base_url: http://h/v1}}
models:
  - {model_id: fast, provider: openai, upstream_model: gpt-4o-mini}
  - {model_id: nano, provider: openai, upstream_model: gpt-4.1-nano-2025-04-14}
  - {model_id: gpt-4o-mini, provider: inhouse}
  - model_id: dated
    provider: openai
    upstream_model: gpt-4o-mini
    price:
      - {from: 2026-06-01, input: 2}
      - {from: 2026-01-01, input: 0.0000001, output: 3.5, cached_input: 0}
"""
    snapshot = compiled(write(tmp_path, text))
    prices = {name: model.prices for name, model in snapshot.models.items()}
    book = prices["fast"].at(at(2026, 1, 1))
    assert (book.input, book.output, book.cached_input) == (150_000, 600_000, 75_000)
    assert book.version.startswith("prices.yaml:2024-07-18:")
    assert prices["nano"].at(0).input == 100_000
    assert prices["gpt-4o-mini"].at(0).version == "free"
    early, late = prices["dated"].at(at(2026, 5, 31)), prices["dated"].at(at(2026, 6, 1))
    assert (early.input, early.output, early.cached_input) == (1, 3_500_000, 0)
    assert (late.input, late.output, late.cached_input) == (2_000_000, 0, None)
    assert late.version.startswith("aidock.yaml:2026-06-01:")
    assert early.version != late.version


def test_prices_per_unit_are_exact_and_change_the_version_only_of_who_has_them(tmp_path: Path) -> None:
    text = """
models:
  - {model_id: tokens, base_url: http://h/v1, price: {input: 0.15, output: 0.60, cached_input: 0.075}}
  - model_id: units
    base_url: http://i/v1
    price: {per_image: 0.04, per_minute: 0.00185, per_million_characters: 15, per_search: 0.002}
"""
    prices = {name: model.prices.at(0) for name, model in compiled(write(tmp_path, text)).models.items()}
    units = prices["units"]
    assert (units.per_image, units.per_minute) == (40_000_000_000, 1_850_000_000)
    assert (units.per_million_characters, units.per_search, units.input) == (15_000_000, 2_000_000_000, 0)
    assert prices["tokens"].version == "aidock.yaml:always:a359ec54", "as it was before there were units"


def test_two_prices_from_one_day_are_refused(tmp_path: Path) -> None:
    text = "models: [{model_id: a, base_url: http://h/v1, price: [{input: 1}, {input: 2}]}]"
    with pytest.raises(ConfigError, match=r"models\[0\].price\[1\]: another price holds from the same day"):
        compiled(write(tmp_path, text))


def test_answers_are_kept_where_a_model_or_a_route_says_so(tmp_path: Path) -> None:
    text = """models:
  - {model_id: a, base_url: http://h/v1, cache: {seconds: 600}}
  - {model_id: b, base_url: http://h/v1}
routes:
  smart: {targets: [{model: a}, {model: b}], cache: {seconds: 60, scope: everyone, when: always}}
  plain: {targets: [{model: a}]}
"""
    routes = compiled(write(tmp_path, text)).routes
    assert (routes["a"].cache, routes["b"].cache) == (CacheRule(600, "user", False), None)
    assert (routes["smart"].cache, routes["plain"].cache) == (CacheRule(60, "everyone", True), None)
    only_b = routes["smart"].only(lambda target: target.model.model_id == "b")
    assert only_b.cache == routes["smart"].cache


def test_a_route_shares_the_models_own_targets(tmp_path: Path) -> None:
    text = """
models: [{model_id: a, base_url: http://h/v1}, {model_id: b, base_url: http://i/v1}, {model_id: c, base_url: http://j/v1}]
routes: {smart: {targets: [{model: a, weight: 3}, {model: b}], fallbacks: [c]}}
"""
    routes = compiled(write(tmp_path, text)).routes
    assert routes["smart"].weights == (3, 1)
    assert routes["smart"].every_target == tuple(routes[name].targets[0] for name in "abc")
    assert set(routes) == {"a", "b", "c", "smart"}


def test_quotas_become_limits_in_whole_micro_dollars(tmp_path: Path) -> None:
    text = """
quotas:
  - {scope: global, metric: cost, limit: 0.0000015, window: month}
  - {scope: department, subject: research, metric: tokens, limit: 100000000000, window: day, action: warn}
  - {scope: model, subject: demo, metric: parallel, limit: 4}
"""
    assert compiled(write(tmp_path, text)).limits == (
        Limit("global", "", "cost", "month", 2),
        Limit("department", "research", "tokens", "day", 100_000_000_000, "warn"),
        Limit("model", "demo", "parallel", "none", 4),
    )


def test_a_user_is_bound_however_their_address_is_written(tmp_path: Path) -> None:
    text = """
quotas:
  - {scope: user, subject: "Ada@Example.com", metric: requests, limit: 1, window: day}
  - {scope: department, subject: Research, metric: requests, limit: 1, window: day}
"""
    assert compiled(write(tmp_path, text)).limits == (
        Limit("user", "ada@example.com", "requests", "day", 1),
        Limit("department", "Research", "requests", "day", 1),
    )


def test_a_user_that_is_named_twice_is_one_however_their_address_is_written(tmp_path: Path) -> None:
    quotas = [
        f"  - {{scope: user, subject: {each}, metric: requests, limit: 1, window: day}}"
        for each in ("Ada@Example.com", "ada@example.com")
    ]
    with pytest.raises(ConfigError, match=r"quotas\[1\]: limits the same as another entry"):
        compiled(write(tmp_path, "\n".join(["quotas:", *quotas, ""])))


def test_a_policys_own_complaint_is_told_at_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "policies:\n  - quota: {limit: x}\n")

    def refuse(name: str, settings: object) -> None:
        raise ValueError(f"{name} has no setting limit")

    with pytest.raises(ConfigError) as caught:
        compile_document(
            load(path, {}, {}), version=1, known_policies=POLICIES, known_dialects=DIALECTS, check_policy=refuse
        )
    assert str(caught.value) == f"{path}:2:12: policies[0].quota: quota has no setting limit"


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot = compiled(None)
    with pytest.raises(TypeError):
        snapshot.routes["x"] = snapshot.routes["demo"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        snapshot.version = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        snapshot.server.port = 1
