"""Every broken file is told where, what, and what was likely meant."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.settings.problems import ConfigError
from tests.settings.configs import DIALECTS, compiled, write

BROKEN = {
    "an unknown key": (
        "server:\n  prot: 9000\n",
        "2:3: server.prot: unknown key (did you mean 'port'?)",
    ),
    "an unknown section": (
        "serevr: {}\n",
        "1:1: serevr: unknown key (did you mean 'server'?)",
    ),
    "an unknown key of a price": (
        "models:\n  - model_id: a\n    base_url: http://h/v1\n    price: {input: 1, outptu: 2}\n",
        "4:23: models[0].price.outptu: unknown key (did you mean 'output'?)",
    ),
    "a number in quotes": (
        'server: {port: "9000"}\n',
        "1:16: server.port: must be a whole number, without quotes",
    ),
    "an octal number": (
        "server:\n  port: 08080\n",
        "2:9: server.port: must be a whole number, written with digits alone and without leading zeros",
    ),
    "a number with underscores": (
        "server:\n  max_inflight: 1_000\n",
        "2:17: server.max_inflight: must be a whole number, written with digits alone and without leading zeros",
    ),
    "a sexagesimal number": (
        "server:\n  drain_seconds: 1:30\n",
        "2:18: server.drain_seconds: must be a number",
    ),
    "a port that is too large": (
        "server:\n  port: 70000\n",
        "2:9: server.port: must be at most 65535",
    ),
    "a YAML 1.1 boolean": (
        "providers:\n  a: {base_url: http://h/v1, tls: {verify: off}}\n",
        "2:44: providers.a.tls.verify: must be true or false (did you mean 'false'?)",
    ),
    "a model called like a number": (
        "models:\n  - {model_id: 3.5, base_url: http://h/v1}\n",
        "2:16: models[0].model_id: must be text; put it in quotes",
    ),
    "a choice that is misspelt": (
        "models:\n  - {model_id: a, base_url: http://h/v1, supported_roles: [user, assistent]}\n",
        (
            "2:66: models[0].supported_roles[1]: must be one of 'system', 'developer', 'user', 'assistant', 'tool', "
            "'function' (did you mean 'assistant'?)"
        ),
    ),
    "a key given twice": (
        "server: {port: 1}\nmodels: []\nserver: {port: 2}\n",
        "3:1: server: is set twice; the other place is FILE:1:1",
    ),
    "a required key that is missing": (
        "models:\n  - display_name: Nameless\n    base_url: http://h/v1\n",
        "2:5: models[0].model_id: is required",
    ),
    "a price that is negative": (
        "models:\n  - {model_id: a, base_url: http://h/v1, price: {input: -0.1}}\n",
        "2:57: models[0].price.input: must be at least 0",
    ),
    "a price that prices nothing": (
        "models:\n  - {model_id: a, base_url: http://h/v1, price: {output: 1}}\n",
        "2:49: models[0].price: needs input, or one of per_image, per_minute, per_million_characters, per_search",
    ),
    "a price for a unit that no database could hold": (
        "models:\n  - {model_id: a, base_url: http://h/v1, price: {per_image: 100000}}\n",
        "2:61: models[0].price.per_image: must be less than 100000",
    ),
    "a price that is not a number": (
        "models:\n  - {model_id: a, base_url: http://h/v1, price: {input: .nan}}\n",
        "2:57: models[0].price.input: must be a number",
    ),
    "a cache without a time": (
        "models:\n  - {model_id: a, base_url: http://h/v1, cache: {scope: user}}\n",
        "2:49: models[0].cache.seconds: is required",
    ),
    "a cache for nobody in particular": (
        "models:\n  - {model_id: a, base_url: http://h/v1, cache: {seconds: 1, scope: key}}\n",
        "2:69: models[0].cache.scope: must be one of 'user', 'department', 'everyone'",
    ),
    "a provider with the name of the cache": (
        "providers: {cache: {base_url: http://h/v1}}\n",
        "1:20: providers.cache: rows say 'cache' of answers that no provider gave; choose another name",
    ),
    "a day that does not exist": (
        "models:\n  - {model_id: a, base_url: http://h/v1, price: [{input: 1, from: 2026-02-30}]}\n",
        "2:67: models[0].price[0].from: must be a date such as 2026-01-31",
    ),
    "a missing variable": (
        "providers:\n  a:\n    base_url: http://h/v1\n    api_key: ${NOT_SET}\n",
        "4:14: providers.a.api_key: environment variable NOT_SET is not set; write ${NOT_SET:-} where it may be absent",
    ),
    "a missing variable with words of its own": (
        "providers: {a: {base_url: 'http://h/v1', api_key: '${NOT_SET:?ask the operators}'}}\n",
        "1:51: providers.a.api_key: environment variable NOT_SET is not set: ask the operators",
    ),
    "a placeholder that is not closed": (
        "timezone: ${ZONE\n",
        "1:11: timezone: '${' is not closed, or holds another placeholder; write '$${' for a literal '${'",
    ),
    "a secret file that is not there": (
        "providers: {a: {base_url: 'http://h/v1', api_key: '${file:/no/such/file}'}}\n",
        "1:51: providers.a.api_key: secret file '/no/such/file' cannot be read: No such file or directory",
    ),
    "a key in place of a variable's name": (
        "providers:\n  a: {base_url: http://h/v1, api_key_env_var: sk-proj-1234}\n",
        (
            "2:47: providers.a.api_key_env_var: must be the name of an environment variable, in capitals; to give the "
            "key itself use api_key: ${NAME}"
        ),
    ),
    "a reference to no provider": (
        "providers: {openai: {}}\nmodels:\n  - {model_id: a, provider: opnai}\n",
        "3:29: models[0].provider: there is no provider 'opnai' (did you mean 'openai'?)",
    ),
    "a model without a provider": (
        "models:\n  - model_id: a\n",
        "2:5: models[0]: needs a provider, or a base_url of its own",
    ),
    "a key that belongs to the provider": (
        "providers: {openai: {}}\nmodels:\n  - {model_id: a, provider: openai, api_key_env_var: X}\n",
        "3:54: models[0].api_key_env_var: belongs to the provider; keep it there, or leave out 'provider'",
    ),
    "two models of one name": (
        "models:\n  - {model_id: a, base_url: http://h/v1}\n  - {model_id: a, base_url: http://h/v1}\n",
        "3:16: models[1].model_id: is used twice; the other place is FILE:2:16",
    ),
    "a route and a model of one name": (
        "models: [{model_id: a, base_url: http://h/v1}]\nroutes:\n  a: {targets: [{model: a}]}\n",
        "3:6: routes.a: a model has this name too; the other place is FILE:1:21",
    ),
    "a route to no model": (
        "models: [{model_id: small, base_url: http://h/v1}]\nroutes:\n  r:\n    targets: [{model: smal}]\n",
        "4:23: routes.r.targets[0].model: there is no model 'smal' (did you mean 'small'?)",
    ),
    "a model twice in a route": (
        "models: [{model_id: a, base_url: http://h/v1}]\nroutes:\n  r: {targets: [{model: a}], fallbacks: [a]}\n",
        "3:42: routes.r.fallbacks[0]: is listed twice; the other place is FILE:3:25",
    ),
    "a route without targets": (
        "routes:\n  r: {targets: []}\n",
        "2:16: routes.r.targets: must have at least 1 item",
    ),
    "an unknown policy": (
        "policies: [model_acess]\n",
        (
            "1:12: policies[0]: there is no policy 'model_acess'; there are concurrency, model_access, quota, "
            "rate_limit (did you mean 'model_access'?)"
        ),
    ),
    "an unknown dialect": (
        "providers:\n  a: {dialect: opanai, base_url: http://h/v1}\n",
        (
            "2:16: providers.a.dialect: there is no dialect 'opanai'; there are "
            f"{', '.join(sorted(DIALECTS))} (did you mean 'openai'?)"
        ),
    ),
    "an unknown vendor": (
        "providers:\n  a: {vendor: mistrl, base_url: http://h/v1}\n",
        "2:15: providers.a.vendor: there is no vendor 'mistrl' in vendors.yaml (did you mean 'mistral'?)",
    ),
    "an address with a password": (
        "providers:\n  a: {base_url: 'https://me:hunter2@h/v1'}\n",
        "2:17: providers.a.base_url: must not hold a user name or password; use api_key or headers",
    ),
    "an address without a scheme": (
        "providers:\n  a: {base_url: h.example/v1}\n",
        "2:17: providers.a.base_url: must be a URL that begins with http:// or https:// and names a host",
    ),
    "an address with a query": (
        "providers:\n  a: {base_url: 'https://h/v1?x=1'}\n",
        (
            "2:17: providers.a.base_url: must not have a query or a fragment; api_version and headers have keys of "
            "their own"
        ),
    ),
    "an address of an operation": (
        "providers:\n  a: {base_url: 'https://h/v1/chat/completions'}\n",
        "2:17: providers.a.base_url: must end before the operation, such as https://api.example.com/v1",
    ),
    "a provider that is nowhere": (
        "providers:\n  a: {dialect: openai}\n",
        (
            "2:6: providers.a.base_url: is required here, such as https://api.example.com/v1, or a vendor with an "
            "address of its own"
        ),
    ),
    "workers without Redis": (
        "server: {workers: 4}\n",
        (
            "1:19: server.workers: several workers cannot share counters in memory; set storage.counters to a Redis "
            "URL, such as redis://127.0.0.1:6379/0, or server.workers to 1"
        ),
    ),
    "a time zone that does not exist": (
        "timezone: Europe/Berln\n",
        "1:11: timezone: there is no time zone 'Europe/Berln' (did you mean 'Europe/Berlin'?)",
    ),
    "a quota on no model": (
        "quotas:\n  - {scope: model, subject: demmo, metric: parallel, limit: 1}\n",
        "2:29: quotas[0].subject: there is no model 'demmo' (did you mean 'demo'?)",
    ),
    "a quota that is not whole": (
        "quotas:\n  - {scope: global, metric: tokens, limit: 1.5, window: day}\n",
        "2:44: quotas[0].limit: must be a whole number; only cost takes fractions",
    ),
    "a quota without a window": (
        "quotas:\n  - {scope: global, metric: cost, limit: 1.5}\n",
        "2:5: quotas[0].window: is required: minute, hour, day, month or total",
    ),
    "the same quota twice": (
        "quotas:\n  - {scope: global, metric: parallel, limit: 1}\n  - {scope: global, metric: parallel, limit: 2}\n",
        "3:5: quotas[1]: limits the same as another entry; the other place is FILE:2:5",
    ),
    "counters that are elsewhere": (
        "storage: {counters: 'memcached://h'}\n",
        (
            "1:21: storage.counters: must begin with memory://, redis://, rediss://, unix://, redis+sentinel:// or "
            "rediss+sentinel://"
        ),
    ),
    "a tab": (
        "server:\n\tport: 1\n",
        (
            "2:1: syntax: found character that cannot start any token; indent with spaces, not tabs, and quote text "
            "that begins with a special character"
        ),
    ),
    "a bracket that is not closed": (
        "policies: [quota\n",
        "2:1: syntax: did not find expected ',' or ']', while parsing a flow sequence that began on line 1",
    ),
    "two documents": (
        "server: {}\n---\nserver: {}\n",
        "2:1: syntax: holds more than one document ('---'); keep one",
    ),
    "a list at the top": ("- a\n", "1:1: must be a mapping of settings, such as 'server:'"),
    "a tag": (
        "timezone: !zone UTC\n",
        "1:11: timezone: tags ('!...') are not used here",
    ),
    "a control character": (
        "timezone: U\x01C\n",
        "1:12: has a character that no text file should hold",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, expected = BROKEN[case]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        compiled(path)
    assert str(caught.value).replace(str(path), "FILE") == f"FILE:{expected}"


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "server:\n  port: x\n  wrokers: 2\nquotas: 3\ntimezone: [1]\n")
    with pytest.raises(ConfigError) as caught:
        compiled(path)
    assert [problem.place.line for problem in caught.value.problems if problem.place] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"timezone: UTC\nserver: {host: \xff}\n", ":2:16: is not UTF-8 text; save the file as UTF-8"),
        ("timezone: UTC".encode("utf-16"), ": is UTF-16; save it as UTF-8"),
        (b"#" * (4 * 1024 * 1024 + 1), ": is larger than 4194304 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "aidock.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        compiled(path)
    assert str(caught.value) == f"{path}{said}"


def test_a_path_that_cannot_be_read_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory; name the file in it"):
        compiled(tmp_path)
    with pytest.raises(ConfigError, match="there is no such file; 'aidock init' writes one"):
        compiled(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        compiled(tmp_path / "nul\0byte")


def test_aliases_cannot_blow_a_file_up(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    with pytest.raises(ConfigError, match="too many values"):
        compiled(write(tmp_path, bomb))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 50_000, "{a: " * 5_000])
def test_endless_nesting_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nested deeper than|too many values|undefined alias"):
        compiled(write(tmp_path, text))


JUNK = st.text(max_size=200) | st.text(alphabet="abc:-{}[]&*!|>'\"%@`#,?~ \t\n\r$<=.0123456789e_", max_size=200)
NAMES = st.sampled_from(["server", "models", "providers", "routes", "policies", "quotas", "timezone", "storage", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=JUNK)
def test_junk_is_refused_or_taken_but_never_breaks_the_reader(junk: str, tmp_path: Path) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(junk.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        assert compiled(path).models


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.dictionaries(NAMES, VALUES, max_size=4))
def test_well_formed_nonsense_is_refused_or_taken_but_never_breaks_the_compiler(
    document: object, tmp_path: Path
) -> None:
    path = tmp_path / "nonsense.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        assert compiled(path).models
