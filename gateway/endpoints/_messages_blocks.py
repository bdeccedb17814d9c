"""Blocks of content, as Anthropic has them, told as chat's messages and parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.core.body import encode
from gateway.core.errors import GatewayError, invalid_request

Json = dict[str, Any]

_DONE_BY_ANTHROPIC = ("_tool_result", "server_tool_use", "mcp_tool_use", "compaction", "fallback")
"""How the types end of blocks that tell what Anthropic's own tools did. The text after them has what came of it."""


def object_at(value: object, at: str) -> Json:
    """The value as an object. Raises 400."""
    if not isinstance(value, dict):
        raise invalid_request(f"'{at}' must be an object.", param=at)
    return value


def system_parts(content: object, at: str) -> list[Json]:
    """A system message, none where there is nothing in it."""
    parts = [_text_part(block) for block, _ in _blocks(content, at, only=("text",))]
    return [{"role": "system", "content": _plain(parts, "\n\n")}] if parts else []


def user_messages(content: object, at: str) -> list[Json]:
    """Tools' results first, each a message of its own, then what the user says. Images that a tool gave are told by the
    user: a tool's message holds text."""
    results: list[Json] = []
    parts: list[Json] = []
    for block, where in _blocks(content, at):
        if block.get("type") == "tool_result":
            result, beside = _result(block, where)
            results.append(result)
            parts += beside
        else:
            parts += _parts(block, where)
    return [*results, {"role": "user", "content": _content(parts)}] if parts or not results else results


def assistant_message(content: object, at: str) -> list[Json]:
    """What the model said, thought and called."""
    texts: list[Json] = []
    calls: list[Json] = []
    signed: list[Json] = []
    unsigned = ""
    for block, where in _blocks(content, at):
        match block:
            case {"type": "text"}:
                texts.append(_text_part(block))
            case {"type": "tool_use"}:
                calls.append(_call(block, where))
            case {"type": "thinking", "thinking": str(), "signature": str(signature)} if signature:
                signed.append({name: block[name] for name in ("type", "thinking", "signature")})
            case {"type": "thinking", "thinking": str(text)}:
                unsigned += text
            case {"type": "redacted_thinking", "data": str(data)}:
                signed.append({"type": "redacted_thinking", "data": data})
            case _:
                _pass_over(block, where)
    message: Json = {"role": "assistant", "content": _plain(texts, "") if texts else None}
    if unsigned:
        message["reasoning_content"] = unsigned
    if signed:
        message["thinking_blocks"] = signed
    if calls:
        message["tool_calls"] = calls
    return [message] if texts or calls else []


def _blocks(content: object, at: str, only: tuple[str, ...] = ()) -> Iterator[tuple[Json, str]]:
    """Content's blocks, and where each one is. Text alone is a block; empty text is none."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise invalid_request(f"'{at}' must be a string or an array of blocks.", param=at)
    for index, item in enumerate(content):
        where = f"{at}[{index}]"
        block = object_at(item, where)
        if only and block.get("type") not in only:
            raise invalid_request(f"'{where}.type' must be {' or '.join(only)}.", param=f"{where}.type")
        if block.get("type") != "text":
            yield block, where
        elif not isinstance(block.get("text"), str):
            raise invalid_request(f"'{where}.text' must be a string.", param=f"{where}.text")
        elif block["text"]:
            yield block, where


def _text_part(block: Json) -> Json:
    return _marked({"type": "text", "text": block["text"]}, block)


def _marked(part: Json, block: Json) -> Json:
    """The part with the block's cache mark."""
    mark = block.get("cache_control")
    return {**part, "cache_control": mark} if isinstance(mark, dict) else part


def _plain(parts: list[Json], between: str) -> Any:
    """Texts as one string, which every upstream of chat takes, unless one of them is marked."""
    if any("cache_control" in part for part in parts):
        return parts
    return between.join(part["text"] for part in parts)


def _content(parts: list[Json]) -> Any:
    """A user's parts; one text alone is a string."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def _parts(block: Json, at: str) -> list[Json]:
    """A block of the user's as parts."""
    match block:
        case {"type": "text"}:
            return [_text_part(block)]
        case {"type": "image", "source": {**source}}:
            return [_marked(_image(source, at), block)]
        case {"type": "document", "source": {**source}}:
            return _document(block, source, at)
        case {"type": "search_result", "content": [*texts]}:
            found = [str(block.get("title") or ""), str(block.get("source") or ""), *_texts_of(texts)]
            return [_marked({"type": "text", "text": "\n".join(filter(None, found))}, block)]
        case {"type": "tool_reference", "tool_name": str(name)}:
            return [{"type": "text", "text": f"The tool '{name}' is available."}]
    return _pass_over(block, at)


def _texts_of(blocks: Iterable[object]) -> list[str]:
    found = [block.get("text") for block in blocks if isinstance(block, dict)]
    return [text for text in found if isinstance(text, str)]


def _pass_over(block: Json, at: str) -> list[Json]:
    """Leave out what tells of Anthropic's own tools, refuse what is unknown."""
    kind = block.get("type")
    if isinstance(kind, str) and kind.endswith(_DONE_BY_ANTHROPIC):
        return []
    raise _unknown(f"{at}.type", f"'{at}' is a block of a kind that this model is not given: {str(kind)[:100]}.")


def _unknown(param: str, message: str) -> GatewayError:
    return invalid_request(message, param=param, code="unsupported_parameter")


def _image(source: Mapping[Any, Any], at: str) -> Json:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case {"type": "url", "url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
    raise _unknown(f"{at}.source", f"'{at}.source' must be base64 data or a URL; this model cannot read stored files.")


def _document(block: Json, source: Mapping[Any, Any], at: str) -> list[Json]:
    title = str(block.get("title") or "")
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            file = {"filename": title or "document.pdf", "file_data": f"data:{media_type};base64,{data}"}
            return [_marked({"type": "file", "file": file}, block)]
        case {"type": "url", "url": str(url)}:
            return [_marked({"type": "file", "file": {"filename": title or "document.pdf", "file_data": url}}, block)]
        case {"type": "text", "data": str(data)}:
            told = [title, str(block.get("context") or ""), data]
            return [_marked({"type": "text", "text": "\n\n".join(filter(None, told))}, block)]
        case {"type": "content", "content": content}:
            lead = [{"type": "text", "text": title}] if title else []
            inner = _blocks(content, f"{at}.source.content")
            return lead + [part for item, where in inner for part in _parts(item, where)]
    said = f"'{at}.source' must be base64 data, text, content or a URL; this model cannot read stored files."
    raise _unknown(f"{at}.source", said)


def _result(block: Json, at: str) -> tuple[Json, list[Json]]:
    """A tool's result as its message, and what must be told beside it."""
    identity = block.get("tool_use_id")
    if not isinstance(identity, str) or not identity:
        raise invalid_request(f"'{at}.tool_use_id' is missing.", param=f"{at}.tool_use_id")
    content = block.get("content")
    inner = [] if content is None else _blocks(content, f"{at}.content")
    parts = [part for item, where in inner for part in _parts(item, where)]
    texts = [part for part in parts if part["type"] == "text"]
    media = [part for part in parts if part["type"] != "text"]
    if block.get("is_error") is True:
        texts.insert(0, {"type": "text", "text": "Error:"})
    if isinstance(block.get("cache_control"), dict) and texts:
        texts[-1] = _marked(texts[-1], block)
    message = {"role": "tool", "tool_call_id": identity, "content": _plain(texts, "\n")}
    if not media:
        return message, []
    return message, [{"type": "text", "text": f"From the tool's result {identity}:"}, *media]


def _call(block: Json, at: str) -> Json:
    match block:
        case {"id": str(identity), "name": str(name)} if identity and name:
            arguments = encode(object_at(block.get("input") or {}, f"{at}.input")).decode()
            return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    raise invalid_request(f"'{at}' needs an id and a name.", param=at)
