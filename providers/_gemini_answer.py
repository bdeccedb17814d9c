"""Gemini's answers, whole and streamed, as chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode
from providers._errors import unreadable
from providers._gemini_parts import (
    Called,
    Pictured,
    blocked,
    candidates,
    finish_reason,
    finished,
    logprobs,
    pieces,
    refusal,
    usage,
)
from providers._gemini_signatures import Signatures, handed_out
from providers._gemini_sources import Passage
from providers._google_errors import error_of, is_error
from providers._translated import TranslatedEvents
from providers._writer import Choice, WrittenAnswer, tool_call

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target


class Identities:
    """The ids of an answer's tool calls: the model's own where it gives one, else made from the call's id."""

    def __init__(self, call: Call, signatures: Signatures) -> None:
        self._call = call
        self._signatures = signatures
        self._given: set[str] = set()

    def of(self, called: Called) -> str:
        """Its id, under which its signature is remembered."""
        identity = called.id
        if not identity or identity in self._given:
            number = f"{self._call.request_id}:{len(self._given)}"
            identity = f"call_{sha256(number.encode()).hexdigest()[:24]}"
        self._given.add(identity)
        if called.signature:
            self._signatures.remember(self._call, identity, called.signature)
        return identity


def read_answer(call: Call, target: Target, body: bytes, signatures: Signatures) -> WrittenAnswer:
    """A whole answer. Raises `GatewayError` where it is none."""
    try:
        document = decode(body)
    except DecodeError as error:
        raise unreadable(target) from error
    if is_error(document):
        raise error_of(document, target)
    if not isinstance(document, Mapping):
        raise unreadable(target)
    identities = Identities(call, signatures)
    try:
        choices = {index: _choice(candidate, identities) for index, candidate in candidates(document)}
    except (ValueError, RecursionError) as error:
        raise unreadable(target) from error
    reason = blocked(document)
    if not choices and reason is not None:
        choices[0] = Choice(refusal=refusal(reason), finish="content_filter")
    if not choices:
        raise unreadable(target)
    ordered = [choices[index] for index in sorted(choices)]
    return WrittenAnswer(call, target.upstream_model, ordered, usage(document.get("usageMetadata")))


def _choice(candidate: Mapping[str, Any], identities: Identities) -> Choice:
    choice, passage = Choice(), Passage()
    for piece in pieces(candidate):
        match piece:
            case Called():
                extra = handed_out(piece.signature) if piece.signature else None
                choice.calls.append(tool_call(identities.of(piece), piece.name, piece.arguments, extra))
            case Pictured(part):
                choice.images.append(part)
            case _:
                if piece.thought:
                    choice.reasoning += piece.text
                else:
                    choice.text += piece.text
                    passage.add(piece.text)
                if piece.signature:
                    choice.extra = handed_out(piece.signature)
    choice.annotations.extend(passage.annotations(candidate))
    choice.logprobs = logprobs(candidate.get("logprobsResult"))
    choice.finish = finished(finish_reason(candidate.get("finishReason")) or "STOP", called=bool(choice.calls))
    return choice


class GeminiStream(TranslatedEvents):
    """`streamGenerateContent` with `alt=sse`. It has no end mark: the body's end is the answer's, where every candidate
    has a reason to have finished. Reasons are kept until then, since calls may follow them."""

    def __init__(self, call: Call, target: Target, signatures: Signatures) -> None:
        super().__init__(call, target)
        self._identities = Identities(call, signatures)
        self._reasons: dict[int, str | None] = {}
        self._passages: dict[int, Passage] = {}
        self._refused = False

    def read(self, message: tuple[bytes, Any]) -> None:
        _, document = message
        if is_error(document):
            raise error_of(document, self.target)
        if document is None:
            return
        if not isinstance(document, Mapping):
            raise unreadable(self.target)
        self.usage = usage(document.get("usageMetadata")) or self.usage
        for index, candidate in candidates(document):
            self._candidate(index, candidate)
        reason = blocked(document)
        if reason is not None and not self._reasons:
            self.say(self.write.refusal(refusal(reason)))
            self._refused = True

    def close(self) -> None:
        if self._refused and not self._reasons:
            self.say(self.write.finish("content_filter"))
            self.end()
        elif self._reasons and all(self._reasons.values()):
            for index, reason in sorted(self._reasons.items()):
                self.say(self.write.finish(finished(reason or "", called=self.write.called(index)), index))
            self.end()

    def _candidate(self, index: int, candidate: Mapping[str, Any]) -> None:
        self._reasons[index] = finish_reason(candidate.get("finishReason")) or self._reasons.get(index)
        passage = self._passages.setdefault(index, Passage())
        probabilities = logprobs(candidate.get("logprobsResult"))
        for piece in pieces(candidate):
            match piece:
                case Called():
                    extra = handed_out(piece.signature) if piece.signature else None
                    identity = self._identities.of(piece)
                    self.say(self.write.tool_call(identity, piece.name, piece.arguments, index=index, extra=extra))
                case Pictured(part):
                    self.say(self.write.images([part], index))
                case _:
                    self._said(piece.text, index, passage if not piece.thought else None, probabilities)
                    if not piece.thought and piece.text:
                        probabilities = None
                    if piece.signature:
                        self.say(self.write.extra_content(handed_out(piece.signature), index))
        if probabilities is not None:
            self.say(self.write.text("", index, probabilities))
        annotations = passage.annotations(candidate)
        if annotations:
            self.say(self.write.annotations(annotations, index))

    def _said(self, text: str, index: int, passage: Passage | None, probabilities: Mapping[str, Any] | None) -> None:
        """Text of the answer, which has a passage, or of a thought."""
        if not text:
            return
        if passage is None:
            self.say(self.write.reasoning(text, index))
        else:
            passage.add(text)
            self.say(self.write.text(text, index, probabilities))
