"""A chat completion as Gemini's `generateContent` is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway.core.body import DecodeError, encode, raw_members
from gateway.core.errors import invalid_request
from providers._chat import Audio, Chat, File, Image, Part, Text, Tool, ToolCall, Turn, refuse
from providers._chat_reader import read_chat
from providers._gemini_model import generation, thinking
from providers._gemini_schema import cleaned
from providers._gemini_signatures import UNSIGNED, Signatures, taken_back

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

MOST_STOPS = 5
MOST_CANDIDATES = 8

_SEEDS = 2**31
"""How many seeds Gemini knows; OpenAI knows more."""

_BLANK = {"text": " "}
"""Where Gemini must be told something and there is nothing to tell."""

_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
}
"""By the end of a URL's path. Vertex does not look for itself."""

_OWN_SETTINGS = {
    "top_k": "topK",
    "topK": "topK",
    "thinking_config": "thinkingConfig",
    "thinkingConfig": "thinkingConfig",
    "media_resolution": "mediaResolution",
    "mediaResolution": "mediaResolution",
}
"""Gemini's own members of `generationConfig` that clients may send beside OpenAI's."""

_OWN_MEMBERS = {
    "safety_settings": "safetySettings",
    "safetySettings": "safetySettings",
    "cached_content": "cachedContent",
    "cachedContent": "cachedContent",
    "labels": "labels",
}
"""Gemini's own members of the request that clients may send beside OpenAI's."""


def chat_body(call: Call, target: Target, signatures: Signatures) -> bytes:
    """The request's body. Raises 400."""
    chat = read_chat(call)
    own = _own(chat.others)
    told: dict[str, Any] = {"contents": _contents(chat, call, target, signatures)}
    if chat.system and chat.turns:
        told["systemInstruction"] = {"parts": [{"text": part.text} for part in chat.system]}
    told |= _tools(chat, target)
    told |= {name: own[member] for member, name in _OWN_MEMBERS.items() if member in own}
    settings = _settings(chat, target)
    settings |= {name: own[member] for member, name in _OWN_SETTINGS.items() if member in own}
    if settings:
        told["generationConfig"] = settings
    try:
        return encode(told)
    except RecursionError as error:
        raise invalid_request("The request is nested too deeply.") from error


def _own(others: Mapping[str, Any]) -> dict[str, Any]:
    """What clients send in Gemini's words: at the top, or below `google`, where its OpenAI-like endpoint has it."""
    own = dict(others)
    for holder in (others.get("extra_body"), others):
        google = holder.get("google") if isinstance(holder, Mapping) else None
        if isinstance(google, Mapping):
            own |= google
    return own


# The conversation


def _contents(chat: Chat, call: Call, target: Target, signatures: Signatures) -> list[dict[str, Any]]:
    """User and model in turns, the user first. Results of tools are contents of their own: Gemini counts them."""
    contents: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    results: list[Turn] = []
    for turn in chat.turns:
        if turn.role == "tool":
            results.append(turn)
            continue
        _add_results(contents, results, order, target)
        if turn.role == "assistant":
            order = {asked.id: position for position, asked in enumerate(turn.calls)}
            _add(contents, "model", _model_parts(turn, call, target, signatures))
        else:
            _add(contents, "user", [_part(part, target) for part in turn.parts] or [_BLANK])
    _add_results(contents, results, order, target)
    if not contents:  # nothing but a system message is asked as the user would
        return [{"role": "user", "parts": [{"text": part.text} for part in chat.system] or [_BLANK]}]
    if contents[0]["role"] == "model":
        contents.insert(0, {"role": "user", "parts": [_BLANK]})
    return contents


def _add(contents: list[dict[str, Any]], role: str, parts: list[dict[str, Any]]) -> None:
    """More of the conversation; neighbours of one role are one."""
    if not parts:
        return
    last = contents[-1] if contents else None
    if last is not None and last["role"] == role and "functionResponse" not in last["parts"][0]:
        last["parts"].extend(parts)
    else:
        contents.append({"role": role, "parts": parts})


def _add_results(contents: list[dict[str, Any]], results: list[Turn], order: Mapping[str, int], target: Target) -> None:
    """The results of one turn's calls, in the order of the calls, which is what Gemini may tell them by."""
    if not results:
        return
    results.sort(key=lambda result: order.get(result.call_id, len(order)))
    parts: list[dict[str, Any]] = []
    media: list[dict[str, Any]] = []
    for result in results:
        response, beside = _response(result, target)
        parts.append(response)
        media += beside
    contents.append({"role": "user", "parts": parts + media})
    results.clear()


def _response(result: Turn, target: Target) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One tool's result, and what must stand beside it because the model's generation takes only text in it."""
    if not result.name:
        said = f"No earlier message has a tool call with the id '{result.call_id[:100]}', so its tool is not known."
        raise invalid_request(said, param="messages")
    response: dict[str, Any] = {
        "id": result.call_id,
        "name": result.name,
        "response": {"result": result.text},
    }
    media = [_part(part, target) for part in result.parts if not isinstance(part, Text)]
    if media and generation(target.upstream_model) >= (3, 0):
        response["parts"] = media
        media = []
    return {"functionResponse": response}, media


def _model_parts(turn: Turn, call: Call, target: Target, signatures: Signatures) -> list[dict[str, Any]]:
    """What the model said earlier. Its thoughts do not go back, only their signatures do."""
    parts = [_part(part, target) for part in turn.parts]
    signature = taken_back(turn.extra)
    if signature and parts:
        parts[-1]["thoughtSignature"] = signature
    parts += [_function_call(asked, call, signatures) for asked in turn.calls]
    _sign_first(parts, target)
    return parts


def _function_call(asked: ToolCall, call: Call, signatures: Signatures) -> dict[str, Any]:
    try:
        arguments = raw_members(asked.arguments.encode() or b"{}")  # numbers stay as the model wrote them
    except DecodeError:
        arguments = asked.parsed()  # says what is wrong
    part: dict[str, Any] = {"functionCall": {"id": asked.id, "name": asked.name, "args": arguments}}
    signature = taken_back(asked.extra) or signatures.recall(call, asked.id)
    if signature:
        part["thoughtSignature"] = signature
    return part


def _sign_first(parts: list[dict[str, Any]], target: Target) -> None:
    """From its third generation on Gemini refuses a turn whose first call has no signature, whoever made the call."""
    if generation(target.upstream_model) < (3, 0):
        return
    for part in parts:
        if "functionCall" in part:
            part.setdefault("thoughtSignature", UNSIGNED)
            return


def _part(part: Part, target: Target) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"text": text}
        case Image(url=str(url)):
            return _by_url(url, "image/jpeg")
        case Image(media_type=media_type, data=data):
            return _inline(media_type, data)
        case Audio(data=data, format=kind):
            return _inline(f"audio/{kind}" if "/" not in kind else kind, data)
        case File(data=str(data), media_type=media_type) if data:
            return _inline(media_type, data)
        case File(url=str(url)):
            return _by_url(url, "application/pdf")
        case File(file_id=str(identity)) if identity.startswith("https://"):
            return _by_url(identity, "")
        case File():
            # Not gs: either, which Google reads with the gateway's own rights, whoever asks.
            said = f"The model '{target.model.model_id}' does not know files by an id; send file_data or an https: URL."
            raise refuse("messages", target, said)
    raise refuse("messages", target)


def _inline(media_type: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _by_url(url: str, otherwise: str) -> dict[str, Any]:
    """A file that Gemini fetches by itself. `otherwise` is its type where the URL does not tell."""
    try:
        ending = urlsplit(url).path.rpartition(".")[2].lower()
    except ValueError as error:
        raise invalid_request("A part of a message has a URL that is none.", param="messages") from error
    media_type = _TYPES.get(ending, otherwise)
    return {"fileData": {"fileUri": url, **({"mimeType": media_type} if media_type else {})}}


# What it may call


def _tools(chat: Chat, target: Target) -> dict[str, Any]:
    choice = chat.tool_choice
    names = {tool.name for tool in chat.tools}
    wanted = choice.allowed or ((choice.name,) if choice.name else ()) if choice else ()
    if choice is not None and not (choice.mode == "none" or names.issuperset(wanted)):
        raise invalid_request("'tool_choice' names a tool that is not among 'tools'.", param="tool_choice")
    if choice is not None and choice.mode in ("required", "named") and not names:
        raise invalid_request("'tool_choice' asks for a tool, and there are no 'tools'.", param="tool_choice")
    told: dict[str, Any] = {}
    # Gemini takes a list of allowed names only where a call is a must; else the others are not shown to it.
    shown = [tool for tool in chat.tools if not wanted or tool.name in wanted]
    tools: list[dict[str, Any]] = []
    if shown:
        tools.append({"functionDeclarations": [_declaration(tool, i) for i, tool in enumerate(shown)]})
    if chat.others.get("web_search_options") is not None:
        tools.append({"googleSearch": {}})
    if tools:
        told["tools"] = tools
    if choice is not None and shown:
        told["toolConfig"] = {"functionCallingConfig": _calling(choice.mode, wanted)}
    return told


def _calling(mode: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    match mode:
        case "none":
            return {"mode": "NONE"}
        case "auto":
            return {"mode": "AUTO"}
    return {"mode": "ANY", **({"allowedFunctionNames": list(wanted)} if wanted else {})}


def _declaration(tool: Tool, index: int) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    if tool.parameters is not None:
        told["parametersJsonSchema"] = cleaned(tool.parameters, f"tools[{index}].function.parameters")
    return told


# How it answers


def _settings(chat: Chat, target: Target) -> dict[str, Any]:
    """`generationConfig`, with nothing in it that the client did not ask for."""
    if len(chat.stop) > MOST_STOPS:
        said = f"The model '{target.model.model_id}' takes at most {MOST_STOPS} stop sequences."
        raise refuse("stop", target, said)
    if chat.n > MOST_CANDIDATES:
        raise refuse("n", target, f"The model '{target.model.model_id}' gives at most {MOST_CANDIDATES} answers.")
    settings: dict[str, Any] = {
        "maxOutputTokens": chat.max_tokens,
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "stopSequences": chat.stop or None,
        "seed": None if chat.seed is None else chat.seed % _SEEDS,
        "candidateCount": chat.n if chat.n > 1 else None,
        "presencePenalty": chat.presence_penalty,
        "frequencyPenalty": chat.frequency_penalty,
        "responseLogprobs": chat.logprobs or None,
        "logprobs": chat.top_logprobs or None if chat.logprobs else None,
        "responseModalities": _modalities(chat, target),
    }
    wanted = chat.response_format
    if wanted is not None and wanted.kind != "text":
        settings["responseMimeType"] = "application/json"
        if wanted.schema is not None:
            settings["responseJsonSchema"] = cleaned(wanted.schema, "response_format.json_schema.schema")
    if chat.reasoning_effort is not None:
        settings["thinkingConfig"] = thinking(chat.reasoning_effort, target.upstream_model)
    return {name: value for name, value in settings.items() if value is not None}


def _modalities(chat: Chat, target: Target) -> list[str] | None:
    wanted = chat.others.get("modalities")
    if chat.others.get("audio") is not None:
        raise refuse("audio", target)
    if wanted is None or wanted == ["text"]:
        return None
    if not isinstance(wanted, list) or not all(kind in ("text", "image") for kind in wanted):
        raise refuse("modalities", target)
    return [kind.upper() for kind in wanted]
