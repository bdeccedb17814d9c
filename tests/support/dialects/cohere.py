"""A fake of Cohere's v2 API, strict about what it is sent. What it does is the last user message's first word:

`tools` calls the first tool twice, `think` thinks first, `cite` cites, `cut` breaks off after a word, `fail` ends with
an error in band, `wait` never ends, `429`, `500`, `498` refuse; anything else is said again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEY = "co-key-0123456789abcdef"
USAGE = {
    "billed_units": {"input_tokens": 5.0, "output_tokens": 3.0},
    "tokens": {"input_tokens": 71.0, "output_tokens": 9.0},
    "cached_tokens": 64.0,
}
CITATION = {
    "start": 0,
    "end": 5,
    "text": "Penny",
    "sources": [{"type": "document", "id": "doc:0", "document": {"title": "Birds", "url": "https://birds.example"}}],
}
_MEMBERS = {
    "model",
    "messages",
    "stream",
    "tools",
    "tool_choice",
    "strict_tools",
    "response_format",
    "max_tokens",
    "stop_sequences",
    "temperature",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "p",
    "k",
    "thinking",
    "documents",
    "citation_options",
    "safety_mode",
    "priority",
}


def cohere(asked: Asked) -> Iterable[Step]:
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return whole(401, {"id": "1", "message": "invalid api token"})
    if asked.path == "/v2/embed":
        word = asked.json["texts"][0]
        return _refusal(word) if word.isdigit() else whole(200, _embedded(asked.json))
    if asked.path == "/v2/rerank":
        word = asked.json["query"]
        return _refusal(word) if word.isdigit() else whole(*_ranked(asked.json))
    if asked.path != "/v2/chat" or asked.json.keys() - _MEMBERS:
        return whole(422, {"id": "1", "message": f"unknown field in {sorted(asked.json)}"})
    body = asked.json
    last = body["messages"][-1]
    text = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    word = text.split()[0]
    if word.isdigit():
        return _refusal(word)
    if body["stream"]:
        return streamed(_events(word, text, body))
    return whole(200, _answer(word, text, body))


def _ranked(body: dict[str, Any]) -> tuple[int, Any]:
    """The longest first. v2 takes nothing but texts."""
    documents = body["documents"]
    if body.keys() - {"model", "query", "documents", "top_n", "max_tokens_per_doc", "priority"}:
        return 422, {"id": "1", "message": "unknown field"}
    if not all(isinstance(document, str) for document in documents):
        return 400, {"id": "1", "message": "documents must be strings"}
    best = sorted(range(len(documents)), key=lambda index: -len(documents[index]))[: body.get("top_n")]
    results = [{"index": index, "relevance_score": len(documents[index]) / 100} for index in best]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return 200, {"id": "r1", "results": results, "meta": meta}


def _refusal(word: str) -> Iterable[Step]:
    return whole(int(word), {"id": "1", "message": f"refused with {word}"})


def _answer(word: str, text: str, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    reason = "COMPLETE"
    match word:
        case "tools":
            name = body["tools"][0]["function"]["name"]
            message = {"role": "assistant", "tool_plan": "I will look.", "tool_calls": _calls(name)}
            reason = "TOOL_CALL"
        case "think":
            message["content"].insert(0, {"type": "thinking", "thinking": "Hm."})
        case "cite":
            message["citations"] = [CITATION]
        case "fail":
            reason = "ERROR"
        case "long":
            reason = "MAX_TOKENS"
    return {"id": "c-1", "finish_reason": reason, "message": message, "usage": USAGE}


def _calls(name: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{name}_{number}", "type": "function", "function": {"name": name, "arguments": '{"city":"Öslo"}'}}
        for number in range(2)
    ]


def _events(word: str, text: str, body: dict[str, Any]) -> Iterable[Step]:
    yield event("message-start", id="c-1", delta={"message": {"role": "assistant", "content": []}})
    match word:
        case "tools":
            yield from _tool_events(body["tools"][0]["function"]["name"])
            yield end("TOOL_CALL")
            yield b"data: [DONE]\n\n"
            return
        case "think":
            yield said("content-start", {"type": "thinking", "thinking": ""})
            yield said("content-delta", {"thinking": "Hm."})
            yield event("content-end", index=0)
        case "cite":
            yield event("citation-start", index=0, delta={"message": {"citations": CITATION}})
            yield event("citation-end", index=0)
    yield said("content-start", {"type": "text", "text": ""})
    for piece in text.split(" "):
        yield said("content-delta", {"text": piece})
        if word == "cut":
            yield CUT
        if word == "wait":
            yield FOREVER
    yield event("content-end", index=0)
    yield end("ERROR", error="The model tripped.") if word == "fail" else end("COMPLETE")
    yield b"data: [DONE]\n\n"


def _tool_events(name: str) -> Iterable[bytes]:
    yield event("tool-plan-delta", delta={"message": {"tool_plan": "I will look."}})
    for index, call in enumerate(_calls(name)):
        function = {**call["function"], "arguments": ""}
        yield event("tool-call-start", index=index, delta={"message": {"tool_calls": {**call, "function": function}}})
        for piece in ('{"city":', '"Öslo"}'):
            delta = {"message": {"tool_calls": {"function": {"arguments": piece}}}}
            yield event("tool-call-delta", index=index, delta=delta)
        yield event("tool-call-end", index=index)


def said(name: str, content: dict[str, Any]) -> bytes:
    return event(name, index=0, delta={"message": {"content": content}})


def end(reason: str, **more: Any) -> bytes:
    return event("message-end", delta={"finish_reason": reason, "usage": USAGE, **more})


def event(name: str, **members: Any) -> bytes:
    document = json.dumps({"type": name, **members}, ensure_ascii=False)
    return f"event: {name}\ndata: {document}\n\n".encode()


def _embedded(body: dict[str, Any]) -> dict[str, Any]:
    vectors = [[float(len(text)), 0.5, -1.0] for text in body["texts"]]
    return {"id": "e", "embeddings": {"float": vectors}, "meta": {"billed_units": {"input_tokens": 4.0}}}
