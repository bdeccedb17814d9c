"""A chat's messages as Claude has them: user and assistant in turns, the user first, everything in blocks."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, raw_members
from gateway.core.errors import invalid_request
from providers._chat import Audio, Chat, File, Image, Part, Text, ToolCall, Turn, refuse, tool_call_id

if TYPE_CHECKING:
    from gateway.core.deployment import Target

Block = dict[str, Any]

LONGEST_ID = 64
_ID_CHARACTERS = "_-"

_PLACEHOLDER = "."
"""What stands for a user who has said nothing: Claude takes no conversation without one, and no blank text."""


def conversation(chat: Chat, target: Target) -> tuple[list[Block], list[dict[str, Any]]]:
    """The system's blocks and the messages. Raises 400."""
    system = _texts(chat.system)
    messages: list[dict[str, Any]] = []
    for turn in chat.turns:
        match turn.role:
            case "assistant":
                _add(messages, "assistant", _assistant(turn, target))
            case "tool":
                _add_result(messages, _result(turn, target))
            case "user":
                _add(messages, "user", _blocks(turn.parts, target))
    if not messages:  # nothing but a system message is asked as the user would
        return [], [{"role": "user", "content": system or [_text(_PLACEHOLDER)]}]
    if messages[0]["role"] == "assistant":
        messages.insert(0, {"role": "user", "content": [_text(_PLACEHOLDER)]})
    _trim_last(messages[-1])
    return system, messages


def lacks_thoughts(chat: Chat) -> bool:
    """Whether the answer goes on from a call of a tool whose thoughts the client has not handed back. A model that
    thinks by a budget refuses that."""
    for turn in reversed(chat.turns):
        if turn.role == "user":
            return False
        if turn.role == "assistant":
            return bool(turn.calls) and not _thoughts(turn)
    return False


def _add(messages: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    """More of the conversation; neighbours of one role are one."""
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].extend(blocks)
    else:
        messages.append({"role": role, "content": blocks})


def _add_result(messages: list[dict[str, Any]], result: Block) -> None:
    """All results of one turn's calls are at the start of the one next message of the user."""
    if not messages or messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": [result]})
        return
    content = messages[-1]["content"]
    content.insert(sum(block["type"] == "tool_result" for block in content), result)


def _trim_last(message: dict[str, Any]) -> None:
    """An answer that is begun for the model must not end in white space."""
    block = message["content"][-1]
    if message["role"] == "assistant" and block["type"] == "text":
        block["text"] = block["text"].rstrip()


def _assistant(turn: Turn, target: Target) -> list[Block]:
    calls = [
        {"type": "tool_use", "id": told_id(asked.id), "name": asked.name, "input": _input(asked)}
        for asked in turn.calls
    ]
    return [*_thoughts(turn), *_blocks(turn.parts, target), *calls]


def _thoughts(turn: Turn) -> list[Block]:
    """Signed thoughts, as they were handed out. Others mean nothing to Claude."""
    thoughts: list[Block] = []
    for block in turn.thinking:
        match block:
            case {"type": "thinking", "thinking": str(text), "signature": str(signature)} if signature:
                thoughts.append({"type": "thinking", "thinking": text, "signature": signature})
            case {"type": "redacted_thinking", "data": str(data)} if data:
                thoughts.append({"type": "redacted_thinking", "data": data})
    return thoughts


def _input(asked: ToolCall) -> Mapping[str, Any]:
    try:
        return raw_members(asked.arguments.encode() or b"{}")  # numbers stay as the model wrote them
    except (UnicodeEncodeError, *DecodeError):
        return asked.parsed()  # says what is wrong


def _result(turn: Turn, target: Target) -> Block:
    blocks = _blocks(turn.parts, target)
    marks = [mark for block in blocks if (mark := block.pop("cache_control", None)) is not None]
    result: Block = {"type": "tool_result", "tool_use_id": told_id(turn.call_id)}
    if blocks:
        result["content"] = blocks
    if marks:
        result["cache_control"] = marks[-1]
    return result


def told_id(identity: str) -> str:
    """A tool call's id in characters that Claude takes."""
    return tool_call_id(identity, _ID_CHARACTERS, LONGEST_ID)


def _texts(parts: Sequence[Text]) -> list[Block]:
    return [_marked(_text(part.text), part.cache) for part in parts if part.text.strip()]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _marked(block: Block, cache: Mapping[str, Any] | None) -> Block:
    return block if cache is None else {**block, "cache_control": cache}


def _blocks(parts: Sequence[Part], target: Target) -> list[Block]:
    """Blank text is left out: Claude refuses it, and it says nothing."""
    return [_block(part, target) for part in parts if not (isinstance(part, Text) and not part.text.strip())]


def _block(part: Part, target: Target) -> Block:
    match part:
        case Text(text=text, cache=cache):
            return _marked(_text(text), cache)
        case Image(url=str(url), cache=cache):
            return _marked({"type": "image", "source": {"type": "url", "url": url}}, cache)
        case Image(media_type=media_type, data=data, cache=cache):
            return _marked(_inline(media_type, data, "", target), cache)
        case File(data=str(data), media_type=media_type, name=name, cache=cache) if data:
            return _marked(_inline(media_type, data, name, target), cache)
        case File(url=str(url), name=name, cache=cache):
            return _marked(_document({"type": "url", "url": url}, name), cache)
        case File(file_id=str(identity), name=name, cache=cache):
            return _marked(_document({"type": "file", "file_id": identity}, name), cache)
        case Audio():
            said = f"The model '{target.model.model_id}' does not take audio; send text, images or documents."
            raise refuse("messages", target, said)
    raise refuse("messages", target)


def _inline(media_type: str, data: str, name: str, target: Target) -> Block:
    """Base64 data as an image, or as a document that is a PDF or plain text."""
    if media_type.startswith("image/"):
        media_type = "image/jpeg" if media_type == "image/jpg" else media_type
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    if media_type == "application/pdf":
        return _document({"type": "base64", "media_type": media_type, "data": data}, name)
    if media_type.startswith("text/") or media_type in ("application/json", "application/xml"):
        return _document({"type": "text", "media_type": "text/plain", "data": _decoded(data)}, name)
    said = f"The model '{target.model.model_id}' takes images, PDF and text, not {media_type[:100]}."
    raise refuse("messages", target, said)


def _document(source: Block, name: str) -> Block:
    block: Block = {"type": "document", "source": source}
    if name:
        block["title"] = name
    return block


def _decoded(data: str) -> str:
    try:
        return b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid_request("A file that says it is text is not base64 of UTF-8.", param="messages") from error
