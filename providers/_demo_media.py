"""The demo model's pictures, sounds, transcripts, judgements and rankings: small, real, and the same for one input."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import encode
from gateway.core.errors import invalid_request
from gateway.core.upstream import UpstreamFailure
from providers import _demo_model as model

if TYPE_CHECKING:
    from gateway.core.body import Body

SAMPLES_PER_SECOND = 8_000
MAX_IMAGES = 10

_SAMPLES_PER_CHARACTER = 400
_SIDE = 16
_BYTES_PER_SECOND = 16_000
"""Of a sound whose head does not tell how long it is."""

_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def image(prompt: str, number: int) -> bytes:
    """A PNG of four coloured fields."""
    colours = hashlib.sha256(f"{number} {prompt}".encode("utf-8", "replace")).digest()
    half = _SIDE // 2
    rows = b"".join(
        b"\0" + colours[3 * quarter : 3 * quarter + 3] * half + colours[3 * quarter + 3 : 3 * quarter + 6] * half
        for quarter in (0, 2)
        for _ in range(half)
    )
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def images(body: Body, prompt: str, count: int, created: int) -> Iterator[bytes]:
    """A whole answer, picture by picture."""
    as_url = body.text("response_format") == "url"
    separator = b'{"created":%d,"data":[' % created
    for number in range(count):
        picture = base64.b64encode(image(prompt, number)).decode()
        yield separator + encode({"url": f"data:image/png;base64,{picture}"} if as_url else {"b64_json": picture})
        separator = b","
    yield b"]}"


def image_events(body: Body, prompt: str, count: int, created: int) -> Iterator[bytes]:
    """The pictures as they become clearer."""
    common = {"created_at": created, "size": "auto", "output_format": "png", "background": "opaque"}
    for number in range(count):
        picture = {"b64_json": base64.b64encode(image(prompt, number)).decode(), "quality": "low", **common}
        for index in range(body.count("partial_images", most=3) or 0):
            yield _event("image_generation.partial_image", **picture, partial_image_index=index)
        used = {"input_tokens": model.count_tokens(prompt), "output_tokens": _SIDE}
        details = {"text_tokens": used["input_tokens"], "image_tokens": 0}
        usage = {**used, "total_tokens": sum(used.values()), "input_tokens_details": details}
        yield _event("image_generation.completed", **picture, usage=usage)


def sound(text: str, kind: str) -> Iterator[bytes]:
    """A tone for every word, as WAV or as its samples alone."""
    if kind == "wav":
        size = len(text) * _SAMPLES_PER_CHARACTER
        yield b"RIFF" + struct.pack("<I4s4sIHHIIHH", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, *_RATES)
        yield b"data" + struct.pack("<I", size)
    for word in model.pieces(text):
        yield _tone(word)


_RATES = (SAMPLES_PER_SECOND, SAMPLES_PER_SECOND, 1, 8)


def _tone(word: str) -> bytes:
    pitch = 200 + hashlib.sha256(word.encode("utf-8", "replace")).digest()[0] * 2
    period = [128 + round(100 * math.sin(2 * math.pi * step / 40)) for step in range(40)]
    step = pitch * 40 / SAMPLES_PER_SECOND
    return bytes(period[int(sample * step) % 40] for sample in range(len(word) * _SAMPLES_PER_CHARACTER))


def sound_events(text: str) -> Iterator[bytes]:
    for piece in sound(text, "wav"):
        yield _event("speech.audio.delta", audio=base64.b64encode(piece).decode())
    used = {"input_tokens": model.count_tokens(text), "output_tokens": sum(1 for _ in model.pieces(text))}
    yield _event("speech.audio.done", usage={**used, "total_tokens": sum(used.values())})


def seconds(body: Body) -> int:
    """How long the sound of a form is."""
    file = body.value("file")
    if not isinstance(file, dict):
        raise invalid_request("'file' must be a sound file.", param="file")
    known = file.get("seconds")
    return int(known) if known is not None else max(1, -(-int(file.get("bytes") or 0) // _BYTES_PER_SECOND))


def transcript(body: Body) -> str:
    """What the demo model claims to have heard; it tells one file from another."""
    file = body.value("file")
    digest = str(file.get("sha256", ""))[:8] if isinstance(file, dict) else ""
    return f"The demo model heard {seconds(body)} seconds of sound, {digest}. It has no ears, but it can count."


def transcription(body: Body, form: str) -> bytes:
    """A whole transcript in the format that was asked for."""
    text, length = transcript(body), seconds(body)
    match form:
        case "json":
            return encode({"text": text, "usage": {"type": "duration", "seconds": length}})
        case "verbose_json":
            segment = {"id": 0, "start": 0.0, "end": float(length), "text": text}
            about = {"task": "transcribe", "language": "english", "duration": float(length)}
            usage = {"type": "duration", "seconds": length}
            return encode({**about, "text": text, "segments": [segment], "usage": usage})
        case "text":
            return f"{text}\n".encode()
        case "srt":
            return f"1\n00:00:00,000 --> {_clock(length)},000\n{text}\n\n".encode()
        case "vtt":
            return f"WEBVTT\n\n00:00:00.000 --> {_clock(length)}.000\n{text}\n\n".encode()
    raise invalid_request("'response_format' is none that the demo model knows.", param="response_format")


def _clock(length: int) -> str:
    return f"{length // 3600:02}:{length // 60 % 60:02}:{length % 60:02}"


def transcript_events(body: Body) -> Iterator[bytes]:
    text = transcript(body)
    for piece in model.pieces(text):
        yield _event("transcript.text.delta", delta=piece)
    yield _event("transcript.text.done", text=text)  # streamed, usage is in tokens or not at all


def moderation(body: Body, identity: str, name: str) -> bytes:
    """What holds the word `/flag` is violent, everything else is harmless."""
    inputs = body.value("input")
    results = [_judged(item) for item in _moderated(inputs)]
    return encode({"id": f"modr-{identity}", "model": name, "results": results})


def _moderated(inputs: object) -> list[str]:
    """Texts one by one; parts of a message together."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, list) and inputs and all(isinstance(item, str) for item in inputs):
        return inputs
    if isinstance(inputs, list) and inputs and all(isinstance(item, dict) for item in inputs):
        return [" ".join(str(item.get("text") or "") for item in inputs)]
    raise invalid_request("'input' must be text, an array of texts, or an array of parts.", param="input")


def _judged(text: str) -> dict[str, Any]:
    flagged = "/flag" in text.split()
    scores = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    told = {name: scores[place] / 100_000 for place, name in enumerate(_CATEGORIES)}
    if flagged:
        told["violence"] = 0.99
    return {
        "flagged": flagged,
        "categories": {name: score > 0.5 for name, score in told.items()},
        "category_scores": told,
        "category_applied_input_types": {name: ["text"] for name in told},
    }


def ranking(body: Body, identity: str, name: str) -> bytes:
    """Documents by how many of the query's words they hold; equal ones in their order."""
    documents = body.value("documents")
    query = set((body.text("query") or "").lower().split())
    if not isinstance(documents, list) or not documents or not query:
        raise invalid_request("'documents' must be an array, and 'query' must hold a word.", param="documents")
    texts = [str(item.get("text", item)) if isinstance(item, dict) else str(item) for item in documents]
    scores = [len(query & set(text.lower().split())) / len(query) for text in texts]
    best = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.count("top_n", least=1) or len(texts)]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    if body.flag("return_documents"):
        results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
    billed = {"search_units": -(-len(texts) // 100)}
    return encode({"id": f"rank-{identity}", "model": name, "results": results, "meta": {"billed_units": billed}})


def _event(kind: str, **members: Any) -> bytes:
    return sse.event(encode({"type": kind, **members}), kind.encode())


def obeying(parts: Iterator[bytes], orders: model.Orders) -> Iterator[bytes | None]:
    """The parts, as far as the orders let them come."""
    for number, part in enumerate(parts):
        if number == orders.cut:
            raise UpstreamFailure("cut", "The demo model broke off, as it was told.")
        if number == orders.stall:
            yield None
        yield part
