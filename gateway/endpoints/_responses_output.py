"""What a response is made of: its items, its usage, and what it repeats of its request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gateway.core.responses import bare_response
from gateway.endpoints._responses_tools import Tool, custom_input

if TYPE_CHECKING:
    from gateway.core.call import Call

Status = Literal["in_progress", "completed", "incomplete"]

_REPEATED = (
    "instructions",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
)


def response_head(call: Call, model: str) -> dict[str, Any]:
    """The response as it begins."""
    head = bare_response(f"resp_{call.request_id}", model, int(call.created_at))
    head |= {
        "background": False,
        "max_output_tokens": call.demand.output_cap,
        "previous_response_id": call.continues,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
    }
    body = call.body
    return head | {name: body.members[name] for name in _REPEATED if name in body}


def response_end(finish: str | None) -> dict[str, Any]:
    """How a response ended, by chat's finish reason."""
    match finish:
        case "length":
            return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        case "content_filter":
            return {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    return {"status": "completed"}


def usage_of(report: object) -> dict[str, Any]:
    """Chat's usage as a response's member `usage`: details that nobody told are zero there. Without the member where
    none was told."""
    match report:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **others}:
            usage = {
                "input_tokens": prompt,
                "input_tokens_details": {
                    "cached_tokens": _detail(others, "prompt_tokens_details", "cached_tokens"),
                    "cache_write_tokens": _detail(others, "prompt_tokens_details", "cache_write_tokens"),
                },
                "output_tokens": completion,
                "output_tokens_details": {
                    "reasoning_tokens": _detail(others, "completion_tokens_details", "reasoning_tokens")
                },
                "total_tokens": prompt + completion,
            }
            return {"usage": usage}
    return {}


def message_item(identity: str, parts: Sequence[Mapping[str, Any]], status: Status) -> dict[str, Any]:
    """What the model said."""
    return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": parts}


def text_part(
    text: str, annotations: Sequence[Mapping[str, Any]] = (), logprobs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A part of a message; `annotations` and `logprobs` as responses have them."""
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def refusal_part(text: str) -> dict[str, Any]:
    """A part of a message that refuses."""
    return {"type": "refusal", "refusal": text}


def summary_part(text: str) -> dict[str, Any]:
    """Thoughts that can be read."""
    return {"type": "summary_text", "text": text}


def reasoning_item(identity: str, text: str, sealed: str | None) -> dict[str, Any]:
    """Thoughts; `sealed` is what their thinker needs back."""
    summary = [summary_part(text)] if text else []
    return {"id": identity, "type": "reasoning", "summary": summary, "encrypted_content": sealed}


def call_item(identity: str, tool: Tool, call_id: str, arguments: str, status: Status) -> dict[str, Any]:
    """A call of a client's tool, by the client's name for it."""
    called: dict[str, Any] = {"id": identity, "call_id": call_id, "name": tool.name, "status": status}
    if tool.namespace is not None:
        called["namespace"] = tool.namespace
    if tool.kind == "custom":
        return {**called, "type": "custom_tool_call", "input": custom_input(arguments) if arguments else ""}
    return {**called, "type": "function_call", "arguments": arguments}


def call_identity(call: Call, tool: Tool, index: int) -> str:
    """The id of the item that tells of a call."""
    return f"{'ctc' if tool.kind == 'custom' else 'fc'}_{call.request_id}_{index}"


def text_of(members: Mapping[str, Any], name: str) -> str:
    """A text of chat's, which some have in parts; empty where there is none."""
    value = members.get(name)
    if isinstance(value, list):
        return "".join(text_of(part, "text") for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list, and nothing of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def annotations_of(annotations: object) -> list[dict[str, Any]]:
    """Chat's citations as responses have them."""
    return [
        {
            "type": "url_citation",
            "url": str(cited.get("url") or ""),
            "title": str(cited.get("title") or ""),
            "start_index": _count(cited.get("start_index")),
            "end_index": _count(cited.get("end_index")),
        }
        for annotation in objects(annotations)
        if isinstance(cited := annotation.get("url_citation"), dict)
    ]


def logprobs_of(logprobs: object) -> list[dict[str, Any]]:
    """Chat's log probabilities of a text."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in objects(token.get("top_logprobs"))]}
        for token in objects(tokens)
    ]


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    text, number, code = text_of(token, "token"), token.get("logprob"), token.get("bytes")
    return {
        "token": text,
        "bytes": code if isinstance(code, list) else list(text.encode("utf-8", "replace")),
        "logprob": float(number) if isinstance(number, int | float) else 0.0,
    }


def _detail(report: Mapping[Any, Any], group: str, name: str) -> int:
    details = report.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
