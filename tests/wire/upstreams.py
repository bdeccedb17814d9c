"""Every kind of upstream that an answer may come from, behind one gateway.

A fake in `tests/support/dialects` has its entry in `_FAKES`: how it is reached, and the words that make it do what the
tests want to see. What speaks OpenAI is played by the gateway itself, whose demo model it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from gateway import plugins
from gateway.core.endpoint import Inference
from gateway.translation import can_take
from tests.providers.calls import a_target
from tests.support import dialects
from tests.support.dialects.served import served
from tests.support.gateway import Gateway

Deed = Literal["hello", "tools", "json", "think", "refuse", "break"]
Words = Mapping[Deed, str]

_HELPERS = {"served", "upstream"}
_AS_THEY_ARE = {"azure", "chat_only", "openai_media", "openai_responses"}
"""What speaks OpenAI and passes byte for byte, so that its fakes, not the gateway, would be held against the schemas.
Azure's first event has neither id nor object."""


@dataclass(frozen=True)
class Played:
    """An upstream. `words` are what a user says to have a deed done; a deed without words is not to be had from it.
    `begin` starts it, until the stack ends, and gives its settings as a provider. `embeds` says whether this model
    gives embeddings, and whether words are understood there."""

    dialect: str
    words: Words
    begin: Callable[[ExitStack, Gateway], Mapping[str, Any]]
    upstream_model: str = "demo"
    embeds: Literal["by words", "always", "never"] = "by words"

    def can(self, endpoint: Inference, deed: Deed) -> bool:
        """Whether it can be asked for this by this endpoint."""
        if endpoint.name == "embeddings" and (self.embeds == "never" or (self.embeds == "always" and deed != "hello")):
            return False
        target = a_target(dialect=self.dialect, upstream_model=self.upstream_model)
        return deed in self.words and can_take(endpoint, target, plugins.providers()[self.dialect])


def _demo(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    return {"quirks": {"tokens_per_second": 1000}}


def _itself(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    return {"base_url": f"{gateway.url}/v1", "api_key": gateway.key}


def _anthropic(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    fake = import_module("tests.support.dialects.anthropic")
    return {"base_url": stack.enter_context(served(fake.anthropic)).url, "api_key": fake.KEY}


def _cohere(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    fake = import_module("tests.support.dialects.cohere")
    return {"base_url": stack.enter_context(served(fake.cohere)).url, "api_key": fake.KEY}


def _gemini(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    fake = import_module("tests.support.dialects.gemini")
    return {"base_url": f"{stack.enter_context(served(fake.Gemini())).url}/v1beta", "api_key": fake.KEY}


def _ollama(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    fake = import_module("tests.support.dialects.ollama")
    return {"base_url": stack.enter_context(served(fake.ollama)).url}


def _bedrock(stack: ExitStack, gateway: Gateway) -> Mapping[str, Any]:
    fake = import_module("tests.support.dialects.bedrock")
    keys = fake.KEYS
    auth = {
        "kind": "aws",
        "region": keys.region,
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key.reveal(),
        "session_token": keys.session_token.reveal(),
    }
    return {"base_url": stack.enter_context(served(fake.bedrock)).url, "auth": auth}


_DEMO_WORDS: Words = {
    "hello": "Hello",
    "tools": "/tool",
    "json": "Hello",
    "refuse": "/error 429",
    "break": "/cut 3",
}
_ANTHROPIC_WORDS: Words = {
    "hello": "Good day",
    "tools": "tools please",
    "json": "{}",
    "think": "think of it",
    "refuse": "429",
    "break": "cut now",
}
_COHERE_WORDS: Words = {
    "hello": "Good day",
    "tools": "tools please",
    "json": "{}",
    "think": "think of it",
    "refuse": "429",
    "break": "cut now",
}
_BEDROCK_WORDS: Words = {
    "hello": "Good day",
    "tools": "tools please",
    "json": "{}",
    "think": "think of it",
    "refuse": "429",
    "break": "cut now",
}
_SLASHED_WORDS: Words = {
    "hello": "Good day",
    "tools": "/tools",
    "json": "/json",
    "think": "/think",
    "refuse": "/error 429",
    "break": "/midway",
}

_FAKES: Mapping[str, Played] = {
    "anthropic": Played("anthropic", _ANTHROPIC_WORDS, _anthropic, "claude-sonnet-4-6", embeds="never"),
    "cohere": Played("cohere", _COHERE_WORDS, _cohere, "command"),
    "gemini": Played("gemini", _SLASHED_WORDS, _gemini, "gemini-3.6-flash", embeds="always"),
    "ollama": Played("ollama", _SLASHED_WORDS, _ollama, embeds="always"),
    "bedrock": Played("bedrock", _BEDROCK_WORDS, _bedrock, "eu.anthropic.claude-sonnet-5-v1:0", embeds="never"),
}


_AT_ONCE: Mapping[str, Any] = {"max_retries": 0, "cooldown": {"failures": 0}}
"""No failure that a test asks for may keep the next one from being asked."""


def fakes() -> list[str]:
    """The dialects that have a fake."""
    files = sorted(file.stem for place in dialects.__path__ for file in Path(place).glob("*.py"))
    return [name for name in files if name not in _HELPERS | _AS_THEY_ARE and not name.startswith("_")]


UPSTREAMS: Mapping[str, Played] = {
    "demo": Played("demo", _DEMO_WORDS, _demo),
    "openai": Played("openai", _DEMO_WORDS, _itself),
    "mistral": Played("mistral", _DEMO_WORDS, _itself),
    **{name: _FAKES[name] for name in fakes() if name in _FAKES},
}


@contextmanager
def gateway_before_all(directory: Path) -> Iterator[Gateway]:
    """A running gateway whose models are named as their upstreams are."""
    with ExitStack() as stack:
        gateway = Gateway(directory, {})
        gateway.write_config(
            {
                "providers": {
                    name: {"dialect": it.dialect, **_AT_ONCE, **it.begin(stack, gateway)}
                    for name, it in UPSTREAMS.items()
                },
                "models": [
                    {"model_id": name, "provider": name, "upstream_model": it.upstream_model}
                    for name, it in UPSTREAMS.items()
                ],
            }
        )
        gateway.start()
        yield gateway
        assert gateway.stop() == 0
