"""A fake of OpenAI's endpoints for images, sound and moderations. What it is to do wrong, the model's name says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

MP3 = b"\xff\xfb\x90\x00" + bytes(range(256)) * 4
USAGE = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
TEXT = "Good evening, Füße."


class MediaUpstream:
    """The model `flaky` has no room at every other call."""

    def __init__(self) -> None:
        self._flaky = 0

    def __call__(self, asked: Asked) -> Iterable[Step]:
        model = model_of(asked)
        self._flaky += model == "flaky"
        if model == "busy" or (model == "flaky" and self._flaky % 2):
            return whole(503, {"error": {"message": "overloaded", "type": "server_error", "code": None, "param": None}})
        if model == "picky":
            return whole(400, {"error": {"message": "Invalid file format.", "type": "invalid_request_error"}})
        match asked.path.removeprefix("/v1/"):
            case "images/generations":
                return _images(asked.json)
            case "audio/speech":
                return _speech(asked.json, model)
            case "audio/transcriptions" | "audio/translations":
                return _transcript(asked)
            case "moderations":
                result = {"flagged": False, "categories": {}, "category_scores": {}}
                return whole(200, {"id": "modr-1", "model": model, "results": [result]})
        return whole(404, {"error": {"message": f"no {asked.path}", "type": "invalid_request_error"}})


def model_of(asked: Asked) -> str:
    """What the request names, in JSON or in a form."""
    if asked.headers["content-type"].startswith("multipart/form-data"):
        return field_of(asked, "model")
    return str(asked.json["model"])


def field_of(asked: Asked, name: str) -> str:
    """A text field of a form; empty without it."""
    before = f'name="{name}"\r\n\r\n'.encode()
    _, found, rest = asked.body.partition(before)
    return rest.partition(b"\r\n")[0].decode() if found else ""


def _images(body: Any) -> Iterator[Step]:
    picture = {"b64_json": base64.b64encode(b"\x89PNG" * 50).decode()}
    if not body.get("stream"):
        return whole(200, {"created": 1, "data": [picture] * body.get("n", 1), "usage": USAGE})
    events = [("image_generation.partial_image", {**picture, "partial_image_index": 0})]
    events += [("image_generation.completed", {**picture, "usage": USAGE})]
    return streamed(_event(kind, **members) for kind, members in events)


def _speech(body: Any, model: str) -> Iterator[Step]:
    if body.get("stream_format") == "sse":
        audio = base64.b64encode(MP3).decode()
        return streamed([_event("speech.audio.delta", audio=audio), _event("speech.audio.done", usage=USAGE)])
    ends: dict[str, list[Step]] = {"hoarse": [CUT], "slow": [FOREVER]}
    return streamed([MP3, MP3, *ends.get(model, [MP3])], "audio/mpeg")


def _transcript(asked: Asked) -> Iterator[Step]:
    form = field_of(asked, "response_format") or "json"
    if field_of(asked, "stream") == "true" and model_of(asked) != "whisper-1":
        events = [_event("transcript.text.delta", delta=TEXT), _event("transcript.text.done", text=TEXT, usage=USAGE)]
        return streamed([*events, b"data: [DONE]\n\n"])
    if form == "vtt":
        return whole(200, f"WEBVTT\n\n00:00.000 --> 00:07.000\n{TEXT}\n".encode(), "text/vtt; charset=utf-8")
    usage = (
        {"type": "tokens", **USAGE} if model_of(asked) == "gpt-4o-transcribe" else {"type": "duration", "seconds": 7}
    )
    return whole(200, {"text": TEXT, "usage": usage})


def _event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()
