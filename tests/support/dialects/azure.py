"""A fake of Azure OpenAI, on its dated paths and on its undated ones, with the token endpoint of Microsoft Entra ID.

It is as strict as Azure: who knocks without the key, or with a token that was not granted here or has ended, a dated
path without its version, an undated one with a deployment that is not there, and results that no call asked for are
refused. What it answers is a command in the last message, see `_answers`; anything else is said again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEY = "azure-key-0123456789abcdef"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "99999999-8888-7777-6666-555555555555"
SECRET = "Q~client+secret&=/x"
VERSION = "2024-10-21"
DEPLOYMENT = "our gpt"
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}

_SAFE = {"hate": {"filtered": False, "severity": "safe"}, "jailbreak": {"filtered": False, "detected": False}}
_PROMPT = [{"prompt_index": 0, "content_filter_results": _SAFE}]


class Refused(Exception):
    """The request is wrong, in Azure's words: mostly without type and param."""

    def __init__(self, status: int, code: str, message: str, /, **members: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message, **members}}


class Azure:
    """The fake. `granted` are its tokens in order, each with the moment at which it ends, `lifetime` what the next ones
    get; `expired` counts the calls that came with one that had ended."""

    def __init__(self) -> None:
        self.granted: dict[str, float] = {}
        self.lifetime = 3600.0
        self.expired = 0
        self._lock = threading.Lock()

    def revoke(self) -> None:
        """No token is good any more."""
        with self._lock:
            self.granted = dict.fromkeys(self.granted, 0.0)

    def __call__(self, asked: Asked) -> Iterable[Step]:
        try:
            if asked.path.endswith("/oauth2/v2.0/token"):
                return self._grant(asked)
            self._admit(asked)
            return _answer(asked)
        except Refused as refused:
            return _refusal(refused)

    def _grant(self, asked: Asked) -> Iterable[Step]:
        form = {name: value for name, (value,) in parse_qs(asked.body.decode(), strict_parsing=True).items()}
        asked_for = (asked.path, form.get("grant_type"), form.get("scope"))
        scope = "https://cognitiveservices.azure.com/.default"
        if asked_for != (f"/{TENANT}/oauth2/v2.0/token", "client_credentials", scope):
            return whole(400, {"error": "invalid_request", "error_description": "AADSTS900144: …"})
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT, SECRET):
            return whole(401, {"error": "invalid_client", "error_description": f"AADSTS7000215: '{CLIENT}'"})
        with self._lock:
            token = f"eyJhbGciOi.token-{len(self.granted)}"
            self.granted[token] = time.monotonic() + self.lifetime
        told = {"token_type": "Bearer", "expires_in": self.lifetime, "access_token": token}
        return chain([0.05], whole(200, told))

    def _admit(self, asked: Asked) -> None:
        key, bearer = asked.headers.get("api-key"), asked.headers.get("authorization")
        if (key is None) == (bearer is None):
            raise Refused(401, "401", "Access denied: one of api-key and authorization is needed.")
        if key is not None and key != KEY:
            raise Refused(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        if bearer is not None:
            with self._lock:
                ends = self.granted.get(bearer.removeprefix("Bearer "))
                if ends is None or ends < time.monotonic():
                    self.expired += 1
                    raise Refused(401, "401", "Unauthorized. Access token is missing, invalid, or expired.")


# What is asked


def _answer(asked: Asked) -> Iterable[Step]:
    deployment, operation = _place(asked)
    if deployment != DEPLOYMENT:
        raise Refused(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
    match operation:
        case "chat/completions":
            return _chat(asked.json)
        case "responses":
            return whole(200, _response(asked.json))
        case "embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return whole(200, {"object": "list", "model": "text-embedding-3-small", "data": data, "usage": usage})
        case "audio/transcriptions":
            usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 6, "total_tokens": 20}
            return whole(200, {"text": "Guten Tag", "usage": usage})
        case "images/generations":
            return whole(200, {"created": 1, "data": [{"b64_json": "aGk=", "content_filter_results": _SAFE}]})
    raise Refused(404, "404", "Resource not found")


def _place(asked: Asked) -> tuple[str, str]:
    """Which deployment, and what of it."""
    _, _, dated = asked.path.partition("/openai/deployments/")
    if dated:
        if asked.query != f"api-version={VERSION}":
            raise Refused(404, "404", "Resource not found")
        deployment, _, operation = dated.partition("/")
        return unquote(deployment), operation
    _, _, operation = asked.path.partition("/openai/v1/")
    if not operation or asked.query:
        raise Refused(400, "BadRequest", "API version not supported")
    return asked.json["model"], operation


def _chat(body: dict[str, Any]) -> Iterable[Step]:
    if not isinstance(body.get("messages"), list):
        raise Refused(400, "BadRequest", "Invalid type for 'messages'.", type="invalid_request_error", param="messages")
    answers = _answers(body)
    if not body.get("stream"):
        return _whole(answers)
    first = next(answers)  # an error that comes first is a status
    filtered = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": _PROMPT}
    usage: list[Any] = [_chunk(None, usage=USAGE)] if (body.get("stream_options") or {}).get("include_usage") else []
    return streamed(_events(chain([filtered, first], answers, usage, [b"data: [DONE]\n\n"])))


# What is answered


def _answers(body: dict[str, Any]) -> Iterator[dict[str, Any] | Step]:
    """The chunks of a stream; a whole answer is all of them."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        yield from _words(f"The tool said: {last['content']}.", body)
        return
    command, _, argument = last["content"].partition(" ")
    match command:
        case "/tools":
            names = [tool["function"]["name"] for tool in body["tools"]]
            for index, name in enumerate(names):
                yield _chunk({"delta": _call(index, f"call_{index}", name, "")})
                yield _chunk({"delta": _call(index, None, None, '{"city":"Tromsø"}')})
            yield _chunk({"delta": {}, "finish_reason": "tool_calls"})
        case "/json":
            if body["response_format"]["type"] != "json_schema":
                raise Refused(400, "BadRequest", "A schema was not asked for.")
            yield from _words('{"city":"Oslo", "degrees":-3}', body)
        case "/filter":
            yield _chunk({"delta": {"content": "Half "}, "content_filter_results": _SAFE})
            filtered = {"violence": {"filtered": True, "severity": "high"}}
            yield _chunk({"delta": {}, "finish_reason": "content_filter", "content_filter_results": filtered})
        case "/late":
            yield from _words("Said before it was read.", body)
            yield _chunk({"content_filter_offsets": {"check_offset": 24}, "content_filter_results": _SAFE})
        case "/error":
            raise _error(int(argument))
        case "/html" | "/cut" | "/midway" | "/stall" | "/silent":
            yield from _misbehaviour(command)
        case _:
            yield from _words(f"You said: {last['content']}", body)


def _words(text: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    counts = range(body.get("n") or 1)
    for word in text.split(" "):
        for index in counts:
            yield _chunk({"index": index, "delta": {"content": word + " "}, "content_filter_results": _SAFE})
    for index in counts:
        yield _chunk({"index": index, "delta": {}, "finish_reason": "stop", "content_filter_results": {}})


def _misbehaviour(command: str) -> Iterator[dict[str, Any] | Step]:
    if command == "/html":
        yield b"<html>A proxy says hello</html>"
    elif command != "/silent":
        yield _chunk({"delta": {"content": "Half "}})
    if command == "/cut":
        yield CUT
    elif command == "/midway":
        yield 0.2  # what comes with an error at once is never seen
        yield {"error": {"code": "InternalServerError", "message": "The server had an error."}}
    elif command in ("/stall", "/silent"):
        yield FOREVER


def _error(status: int) -> Refused:
    match status:
        case 400:
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _SAFE}
            said = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
            return Refused(400, "content_filter", said, param="prompt", type=None, status=400, innererror=inner)
        case 429:
            return Refused(429, "429", "Requests have exceeded call rate limit. Please retry after 2 seconds.")
    return Refused(status, "ServiceUnavailable", f"Azure says {status}.")


def _refusal(refused: Refused) -> Iterable[Step]:
    (answer,) = whole(refused.status, refused.body)
    if refused.status == 429:
        assert isinstance(answer, bytes)
        head, _, body = answer.partition(b"\r\n\r\n")
        answer = head + b"\r\nretry-after: 2\r\nretry-after-ms: 1480\r\n\r\n" + body
    return [answer]


def _call(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments}
    told: dict[str, Any] = {"index": index, "function": function}
    if call_id:
        function["name"] = name
        told |= {"id": call_id, "type": "function"}
    return {"tool_calls": [told]}


def _chunk(choice: dict[str, Any] | None, **members: Any) -> dict[str, Any]:
    choices = [] if choice is None else [{"index": 0, "finish_reason": None, **choice}]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-11-20"}
    return {**base, "choices": choices, **members}


def _response(body: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": f"You said: {body['input']}", "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    usage = {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    details = {"input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 2}}
    about = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o-2024-11-20"}
    return {**about, "status": "completed", "output": [message], "usage": {**usage, **details}, "tools": []}


def _events(answers: Iterable[dict[str, Any] | Step]) -> Iterator[Step]:
    for answer in answers:
        if isinstance(answer, dict):
            yield b"data: " + json.dumps(answer, ensure_ascii=False).encode() + b"\n\n"
        else:
            yield answer


def _whole(answers: Iterable[dict[str, Any] | Step]) -> Iterable[Step]:
    """All chunks as one answer; what misbehaves does so in place of it."""
    messages: dict[int, dict[str, Any]] = {}
    finishes: dict[int, str] = {}
    for answer in answers:
        if isinstance(answer, bytes):
            return whole(200, answer, "text/html")
        if not isinstance(answer, dict):
            return iter([answer])
        for choice in answer["choices"]:
            message = messages.setdefault(choice["index"], {"role": "assistant", "content": None})
            delta = choice.get("delta") or {}
            if "content" in delta:
                message["content"] = (message["content"] or "") + delta["content"]
            for call in delta.get("tool_calls", ()):
                _add(message.setdefault("tool_calls", []), call)
            if choice["finish_reason"]:
                finishes[choice["index"]] = choice["finish_reason"]
    choices = [
        {"index": index, "message": message, "finish_reason": finishes[index], "content_filter_results": _SAFE}
        for index, message in messages.items()
    ]
    about = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-2024-11-20"}
    return whole(200, {**about, "choices": choices, "usage": USAGE, "prompt_filter_results": _PROMPT})


def _add(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    if "id" in delta:
        calls.append({name: value for name, value in delta.items() if name != "index"})
    else:
        calls[-1]["function"]["arguments"] += delta["function"]["arguments"]
