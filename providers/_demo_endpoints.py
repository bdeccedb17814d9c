"""The demo model's replies on endpoints for other things than texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from gateway.core.body import Body
from gateway.core.errors import GatewayError, invalid_request
from providers import _demo_media as media
from providers import _demo_model as model
from providers._demo_model import Orders
from providers._demo_reply import Reply, refusal

MEDIA = {
    "images/generations": "prompt",
    "audio/speech": "input",
    "audio/transcriptions": "prompt",
    "audio/translations": "prompt",
    "moderations": "input",
    "rerank": "query",
}
"""What it serves besides texts, and the member that may begin with commands."""


def media_reply(operation: str, body: Body, name: str, identity: str, created: int) -> Reply:
    """Pictures, sounds, transcripts, judgements, rankings. Commands begin the text that comes with them."""
    if operation not in MEDIA:
        raise GatewayError(404, "not_found", f"The demo model has no '{operation}'.")
    text = body.value(MEDIA[operation])
    orders = model.read_orders(text) if isinstance(text, str) else Orders()
    if orders.error is not None:
        return refusal(orders.error, orders.slow)
    match operation:
        case "images/generations":
            reply = _images(body, str(text or ""), created)
        case "audio/speech":
            reply = _speech(body, str(text or ""))
        case "audio/transcriptions" | "audio/translations":
            reply = _transcript(body)
        case "moderations":
            reply = Reply(iter((media.moderation(body, identity, name),)))
        case _:
            reply = Reply(iter((media.ranking(body, identity, name),)))
    return reply._replace(parts=media.obeying(cast("Iterator[bytes]", reply.parts), orders), wait=orders.slow)


def _images(body: Body, prompt: str, created: int) -> Reply:
    count = body.count("n", least=1, most=media.MAX_IMAGES) or 1
    if body.flag("stream"):
        return Reply(media.image_events(body, prompt, count, created), streamed=True)
    return Reply(media.images(body, prompt, count, created))


def _speech(body: Body, text: str) -> Reply:
    if body.text("stream_format") == "sse":
        return Reply(media.sound_events(text), streamed=True)
    kind = body.text("response_format") or "wav"
    if kind not in ("wav", "pcm"):
        raise invalid_request("The demo model speaks in wav or pcm.", param="response_format")
    return Reply(media.sound(text, kind), streamed=True, kind=b"audio/" + kind.encode())


def _transcript(body: Body) -> Reply:
    if body.flag("stream"):
        return Reply(media.transcript_events(body), streamed=True)
    form = body.text("response_format") or "json"
    kind = None if form.endswith("json") else b"text/plain; charset=utf-8"
    return Reply(iter((media.transcription(body, form),)), kind=kind)
