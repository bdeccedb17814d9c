"""What clients are told so that they use this gateway. Keys stay out of it: they are read from `AIDOCK_API_KEY`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping

VARIABLE = "AIDOCK_API_KEY"


def curl_command(base: str, model: str, key: str = f"${VARIABLE}") -> str:
    """A streamed chat call for a shell. `base` ends without /v1; `key` may be a variable's name."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    return (
        f"curl -N {shlex.quote(f'{base}/v1/chat/completions')} \\\n"
        f'  -H "Authorization: Bearer {key}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(json.dumps(body))}"
    )


def _python(base: str, model: str) -> str:
    return f"""\
# pip install openai
import os

from openai import OpenAI

client = OpenAI(base_url={_quoted(base)}, api_key=os.environ["{VARIABLE}"])
answer = client.chat.completions.create(
    model={json.dumps(model)},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""


def _node(base: str, model: str) -> str:
    return f"""\
// npm install openai
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: {_quoted(base)}, apiKey: process.env.{VARIABLE} }});
const answer = await client.chat.completions.create({{
  model: {json.dumps(model)},
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);"""


def _langchain(base: str, model: str) -> str:
    return f"""\
# pip install langchain-openai
import os

from langchain_openai import ChatOpenAI

chat = ChatOpenAI(model={json.dumps(model)}, base_url={_quoted(base)}, api_key=os.environ["{VARIABLE}"])
print(chat.invoke("Hello").content)"""


def _aider(base: str, model: str) -> str:
    return f"""\
export OPENAI_API_BASE={shlex.quote(f"{base}/v1")}
export OPENAI_API_KEY="${VARIABLE}"
aider --model {shlex.quote(f"openai/{model}")}"""


def _codex(base: str, model: str) -> str:
    return f"""\
# ~/.codex/config.toml
model = {json.dumps(model)}
model_provider = "aidock"

[model_providers.aidock]
name = "AI Dock"
base_url = {_quoted(base)}
env_key = "{VARIABLE}"
wire_api = "responses\""""


def _continue(base: str, model: str) -> str:
    return f"""\
# ~/.continue/config.yaml; the key is read from {VARIABLE} in ~/.continue/.env
name: AI Dock
version: 1.0.0
schema: v1
models:
  - name: {json.dumps(model)}
    provider: openai
    model: {json.dumps(model)}
    apiBase: {_quoted(base)}
    apiKey: ${{{{ secrets.{VARIABLE} }}}}
    roles: [chat, edit, apply]"""


def _claude(base: str, model: str) -> str:
    """Claude Code has a model for each of its own three sizes; here one stands for all."""
    named = shlex.quote(model)
    return f"""\
# npm install -g @anthropic-ai/claude-code
export ANTHROPIC_BASE_URL={shlex.quote(base)}
export ANTHROPIC_AUTH_TOKEN="${VARIABLE}"
export ANTHROPIC_MODEL={named}
export ANTHROPIC_DEFAULT_OPUS_MODEL={named}
export ANTHROPIC_DEFAULT_SONNET_MODEL={named}
export ANTHROPIC_DEFAULT_HAIKU_MODEL={named}
claude"""


def _openwebui(base: str, model: str) -> str:
    return f"""\
export OPENAI_API_BASE_URL={shlex.quote(f"{base}/v1")}
export OPENAI_API_KEY="${VARIABLE}"
open-webui serve"""


def _quoted(base: str) -> str:
    return json.dumps(f"{base}/v1")


CLIENTS: Mapping[str, Callable[[str, str], str]] = {
    "python": _python,
    "node": _node,
    "curl": curl_command,
    "codex": _codex,
    "claude": _claude,
    "continue": _continue,
    "aider": _aider,
    "openwebui": _openwebui,
    "langchain": _langchain,
}
"""By name: from the gateway's base URL, without /v1, and a model to what the client is told."""
