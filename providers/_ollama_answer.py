"""Ollama's answers, whole and streamed, as chat completions.

A stream is a JSON document a line, the last of which is `done`; a whole answer is that one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.body import DecodeError, decode, encode
from gateway.core.usage import Usage
from providers._errors import reported_error, unreadable
from providers._translated import TranslatedStream
from providers._usage import count
from providers._writer import Choice, FinishReason, WrittenAnswer, tool_call

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_LONGEST_LINE = 16 * 2**20
_LONGEST_ID = 200


class Piece(NamedTuple):
    """What one line says. `finish` is Ollama's own reason once it is done; `report` the line itself, which counts."""

    thinking: str
    text: str
    calls: list[tuple[str, str, str]]
    logprobs: Mapping[str, Any] | None
    done: bool
    finish: str
    report: Mapping[str, Any]


def read_answer(call: Call, target: Target, body: bytes) -> WrittenAnswer:
    """A whole answer. Raises `GatewayError` where it is none."""
    try:
        piece = _piece(decode(body), target)
    except (ValueError, *DecodeError) as error:
        raise unreadable(target) from error
    if not piece.done:
        raise unreadable(target)
    mint = Identities(call)
    choice = Choice(
        text=piece.text,
        reasoning=piece.thinking,
        calls=[tool_call(mint.of(identity), name, arguments) for identity, name, arguments in piece.calls],
        finish=_finished(piece.finish, called=bool(piece.calls)),
        logprobs=piece.logprobs,
    )
    used = _usage(piece.report, call, wrote=choice.size > 0)
    answer = WrittenAnswer(call, target.upstream_model, [choice], _told(used))
    answer.usage = used
    return answer


class OllamaStream(TranslatedStream):
    """A stream of `/api/chat`."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__(call, target)
        self._call = call
        self._mint = Identities(call)
        self._held = bytearray()

    def split(self, chunk: bytes) -> Iterable[Any]:
        end = chunk.rfind(b"\n") + 1
        self._held += chunk[:end]
        whole, self._held = (bytes(self._held), bytearray()) if end else (b"", self._held)
        self._held += chunk[end:]
        if len(self._held) > _LONGEST_LINE:
            raise ValueError("a line has no end")
        return _documents(whole)

    def rest(self) -> Iterable[Any]:
        whole, self._held = bytes(self._held), bytearray()
        return _documents(whole)

    def read(self, message: Any) -> None:
        piece = _piece(message, self.target)
        if piece.thinking:
            self.say(self.write.reasoning(piece.thinking))
        if piece.text or piece.logprobs is not None:
            self.say(self.write.text(piece.text, logprobs=piece.logprobs))
        for identity, name, arguments in piece.calls:
            self.say(self.write.tool_call(self._mint.of(identity), name, arguments))
        if piece.done:
            self.usage = _usage(piece.report, self._call, wrote=self.begun)
            self.say(self.write.finish(_finished(piece.finish, called=self.write.called())))
            self.say(self.write.end(_told(self.usage)))
            self.complete = True


class Identities:
    """The ids of an answer's tool calls: Ollama's own where it gives one, else made from the call's id."""

    def __init__(self, call: Call) -> None:
        self._request_id = call.request_id
        self._given: set[str] = set()

    def of(self, identity: str) -> str:
        if not identity or len(identity) > _LONGEST_ID or identity in self._given:
            number = f"{self._request_id}:{len(self._given)}"
            identity = f"call_{sha256(number.encode()).hexdigest()[:24]}"
        self._given.add(identity)
        return identity


def _documents(lines: bytes) -> Iterator[Any]:
    for line in lines.split(b"\n"):
        if line.strip():
            yield decode(line)


def _piece(document: Any, target: Target) -> Piece:
    """One line, read. Raises `GatewayError` where it tells of a failure, `ValueError` where it is none."""
    if not isinstance(document, Mapping):
        raise ValueError("a line is no object")  # noqa: TRY004  what cannot be read is a ValueError to streams
    if document.get("error"):
        raise reported_error(document, target)
    message = document.get("message")
    if not isinstance(message, Mapping):
        message = {}
        if document.get("done") is not True:
            raise ValueError("a line has no message")
    calls = message.get("tool_calls")
    return Piece(
        thinking=_text(message.get("thinking")),
        text=_text(message.get("content")),
        calls=[found for call in calls if (found := _call(call))] if isinstance(calls, list) else [],
        logprobs=_logprobs(document.get("logprobs")),
        done=document.get("done") is True,
        finish=_text(document.get("done_reason")),
        report=document,
    )


def _call(call: object) -> tuple[str, str, str] | None:
    """Id, name and arguments as text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    name, arguments = _text(function.get("name")), function.get("arguments")
    written = encode(arguments).decode() if isinstance(arguments, Mapping) else "{}"
    return (_text(call.get("id")), name, written) if name else None


def _finished(reason: str, *, called: bool) -> FinishReason:
    """A turn that calls tools ends with `stop` as any other; `load` and `unload` said nothing at all."""
    if reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _usage(report: Mapping[str, Any], call: Call, *, wrote: bool) -> Usage | None:
    """Counts that are zero are left out on the wire, and some versions leave out the prompt's where they had it cached:
    then the prompt is a guess, and the usage as a whole an estimate."""
    prompt, completion = count(report.get("prompt_eval_count")), count(report.get("eval_count"))
    if completion is None:
        if wrote or prompt is None:
            return None
        completion = 0
    if prompt is None:
        return Usage(call.demand.likely_prompt, completion, source="estimated")
    return Usage(prompt, completion)


def _told(usage: Usage | None) -> Usage | None:
    """What the client is told: no guesses."""
    return usage if usage is not None and usage.source == "upstream" else None


def _logprobs(listed: object) -> dict[str, Any] | None:
    """Ollama has them in chat's shape but for what it leaves out."""
    if not isinstance(listed, list) or not listed:
        return None
    content = []
    for token in listed:
        told = _probability(token)
        if told is not None:
            top = token.get("top_logprobs")
            others = [_probability(other) for other in top] if isinstance(top, list) else []
            content.append({**told, "top_logprobs": [other for other in others if other is not None]})
    return {"content": content, "refusal": None} if content else None


def _probability(token: object) -> dict[str, Any] | None:
    if not isinstance(token, Mapping):
        return None
    text, logprob, raw = token.get("token"), token.get("logprob"), token.get("bytes")
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    known = raw if isinstance(raw, list) and all(type(byte) is int for byte in raw) else None
    return {"token": text, "logprob": logprob, "bytes": known or list(text.encode("utf-8", "replace"))}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
