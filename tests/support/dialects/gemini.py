"""A fake of Google's Gemini, on AI Studio's paths and on Vertex's, with the token endpoint that goes with them.

It is as strict as Google: who knocks without a good key or token, a body with members that `generateContent` does not
know, turns out of order, results that no call asked for, and a third generation's call without a signature that was
handed out are refused. What it answers is a command in the last text, see `_answers`; anything else is said again.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEY = "g-key-0123456789abcdef"
EMAIL = "gateway@proj.iam.gserviceaccount.com"
UNSIGNED = "skip_thought_signature_validator"

_MEMBERS = {
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
}
_REFUSED_KEYWORDS = {"$schema", "strict", "const"}
_USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 17}
_THOUGHT = {**_USAGE, "cachedContentTokenCount": 4, "thoughtsTokenCount": 20, "totalTokenCount": 37}


class Refused(Exception):
    """The request is wrong, in Google's words."""

    def __init__(self, status: int, name: str, message: str, *details: dict[str, Any]) -> None:
        super().__init__(message)
        error = {"code": status, "message": message, "status": name, "details": list(details)}
        self.status = status
        self.body = {"error": error}


class Gemini:
    """The fake. `handed_out` are its signatures, `tokens` those that it granted."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.handed_out: set[str] = set()
        self.tokens: set[str] = set()
        self.lifetime = 3600
        self.port = 0

    def account(self) -> dict[str, str]:
        """The service account's key file."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return {
            "type": "service_account",
            "project_id": "proj",
            "private_key": pem,
            "client_email": EMAIL,
            "token_uri": f"http://127.0.0.1:{self.port}/token",
        }

    def __call__(self, asked: Asked) -> Iterable[Step]:
        try:
            if asked.path == "/token":
                return whole(200, self._grant(asked))
            return self._answer(asked)
        except Refused as refused:
            return whole(refused.status, refused.body)

    # Who knocks

    def _grant(self, asked: Asked) -> dict[str, Any]:
        form = parse_qs(asked.body.decode())
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            raise Refused(400, "INVALID_ARGUMENT", "unsupported_grant_type")
        head, claims, signature = form["assertion"][0].split(".")
        try:
            self._key.public_key().verify(_bytes(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
        except InvalidSignature as error:
            raise Refused(400, "INVALID_ARGUMENT", "invalid_grant") from error
        told = json.loads(_bytes(claims))
        now = time.time()
        good = (
            json.loads(_bytes(head))["alg"] == "RS256"
            and told["iss"] == EMAIL
            and told["aud"] == self.account()["token_uri"]
            and told["scope"] == "https://www.googleapis.com/auth/cloud-platform"
            and now - 300 < told["iat"] <= now + 5
            and told["iat"] < told["exp"] <= told["iat"] + 3600
        )
        if not good:
            raise Refused(400, "INVALID_ARGUMENT", "invalid_grant")
        token = f"ya29.token-{len(self.tokens)}"
        self.tokens.add(token)
        return {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"}

    def _admit(self, asked: Asked) -> None:
        if asked.path.startswith("/v1beta/"):
            if asked.headers.get("x-goog-api-key") != KEY:
                info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
                raise Refused(400, "INVALID_ARGUMENT", "API key not valid.", info)
        elif asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        elif not asked.path.startswith("/v1/projects/proj/locations/europe-west4/publishers/google/models/"):
            raise Refused(403, "PERMISSION_DENIED", "No such project.")

    # What is asked

    def _answer(self, asked: Asked) -> Iterable[Step]:
        self._admit(asked)
        model, _, method = asked.path.rpartition("/")[2].partition(":")
        if model == "missing":
            raise Refused(404, "NOT_FOUND", "models/missing is not found for API version v1beta.")
        body = asked.json
        if method == "batchEmbedContents":
            return whole(200, {"embeddings": [_vector(_text(it["content"])) for it in body["requests"]]})
        if method == "predict":
            return whole(200, {"predictions": [_prediction(it) for it in body["instances"]]})
        self._check(body, model)
        answers = self._answers(body, model)
        if method == "streamGenerateContent":
            if asked.query != "alt=sse":
                raise Refused(400, "INVALID_ARGUMENT", "This fake streams events only.")
            first = next(answers)  # an error that comes first is a status
            return streamed(_events(chain([first], answers)))
        if method == "generateContent":
            return _whole(answers)
        raise Refused(404, "NOT_FOUND", f"No method {method}.")

    def _check(self, body: dict[str, Any], model: str) -> None:
        unknown = body.keys() - _MEMBERS
        if unknown:
            raise Refused(400, "INVALID_ARGUMENT", f"Unknown name {unknown}.")
        if len(body.get("generationConfig", {}).get("stopSequences", [])) > 5:
            raise Refused(400, "INVALID_ARGUMENT", "At most 5 stop sequences.")
        if _keywords(body.get("tools")) & _REFUSED_KEYWORDS:
            raise Refused(400, "INVALID_ARGUMENT", "A schema has keywords that are not known.")
        contents = body["contents"]
        if not contents or contents[0]["role"] != "user" or not all(content["parts"] for content in contents):
            raise Refused(400, "INVALID_ARGUMENT", "Contents must begin with a user, and have parts.")
        pending: list[str] = []
        for content in contents:
            results = [part["functionResponse"]["id"] for part in content["parts"] if "functionResponse" in part]
            if results != pending:
                raise Refused(400, "INVALID_ARGUMENT", "As many function responses are needed as there are calls.")
            calls = [part for part in content["parts"] if "functionCall" in part]
            pending = [part["functionCall"]["id"] for part in calls]
            if calls and model.startswith("gemini-3"):
                signature = calls[0].get("thoughtSignature", "")
                if signature != UNSIGNED and signature not in self.handed_out:
                    raise Refused(400, "INVALID_ARGUMENT", "Function call is missing a thought_signature.")

    # What is answered

    def _answers(self, body: dict[str, Any], model: str) -> Iterator[dict[str, Any] | Step]:
        """The events of a stream; a whole answer is all of them."""
        last = body["contents"][-1]
        if "functionResponse" in last["parts"][0]:
            results = [part["functionResponse"]["response"]["result"] for part in last["parts"]]
            yield _reply([{"text": f"The tools said: {', '.join(results)}."}], "STOP", _USAGE)
            return
        command, _, argument = _text(last).partition(" ")
        match command:
            case "/tools":
                yield from self._calls(body)
            case "/think":
                yield _reply([{"text": "Let me see. ", "thought": True}])
                yield _reply([{"text": "42"}], "STOP", _THOUGHT)
            case "/json":
                if body["generationConfig"].get("responseMimeType") != "application/json":
                    raise Refused(400, "INVALID_ARGUMENT", "JSON was not asked for.")
                yield _reply([{"text": '{"city":"Oslo",'}])
                yield _reply([{"text": '"degrees":-3}'}], "STOP", _USAGE)
            case "/block":
                yield {
                    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
                    "usageMetadata": {**_USAGE, "candidatesTokenCount": 0},
                }
            case "/error" | "/html" | "/cut" | "/end" | "/midway" | "/stall" | "/silent":
                yield from _misbehaviour(command, argument)
            case _:
                count = body.get("generationConfig", {}).get("candidateCount", 1)
                words = f"You said: {_text(last)}".split(" ")
                for word in words:
                    yield {"candidates": [_candidate([{"text": word + " "}], index=i) for i in range(count)]}
                ends = [_candidate([], "STOP", i) for i in range(count)]
                yield {"candidates": ends, "usageMetadata": _USAGE}

    def _calls(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A call to each declared function, the first of them signed."""
        names = [it["name"] for tool in body["tools"] for it in tool["functionDeclarations"]]
        if body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode") == "NONE":
            yield _reply([{"text": "No tools, then."}], "STOP", _USAGE)
            return
        signature = base64.b64encode(f"signature {len(self.handed_out)}".encode()).decode()
        self.handed_out.add(signature)
        for position, name in enumerate(names):
            part: dict[str, Any] = {"functionCall": {"name": name, "args": {"city": "Tromsø"}}}
            if not position:
                part["thoughtSignature"] = signature
            yield _reply([part])
        yield _reply([], "STOP", _USAGE)


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _text(content: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content["parts"])


def _vector(text: str) -> dict[str, Any]:
    return {"values": [len(text) / 8, -0.5]}


def _prediction(instance: dict[str, Any]) -> dict[str, Any]:
    return {"embeddings": {**_vector(instance["content"]), "statistics": {"token_count": 3, "truncated": False}}}


def _keywords(value: Any) -> set[str]:
    if isinstance(value, dict):
        return value.keys() | {keyword for inner in value.values() for keyword in _keywords(inner)}
    return {keyword for inner in value for keyword in _keywords(inner)} if isinstance(value, list) else set()


def _candidate(parts: list[dict[str, Any]], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": index}
    return {**told, "finishReason": finish} if finish else told


def _reply(
    parts: list[dict[str, Any]], finish: str | None = None, usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    told: dict[str, Any] = {"candidates": [_candidate(parts, finish)]}
    return {**told, "usageMetadata": usage} if usage else told


def _error(status: int) -> Refused:
    names = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    details = [retry] if status == 429 else []
    return Refused(status, names.get(status, "UNAVAILABLE"), f"Google says {status}.", *details)


def _misbehaviour(command: str, argument: str) -> Iterator[dict[str, Any] | Step]:
    if command == "/error":
        raise _error(int(argument))
    if command == "/html":
        yield b"<html>A proxy says hello</html>"
    elif command != "/silent":
        yield _reply([{"text": "Half "}])
    if command == "/cut":
        yield CUT
    elif command == "/midway":
        yield 0.2  # what comes with an error at once is never seen
        yield _error(503).body
    elif command in ("/stall", "/silent"):
        yield FOREVER


def _events(answers: Iterable[dict[str, Any] | Step]) -> Iterator[Step]:
    for answer in answers:
        if isinstance(answer, dict):
            yield b"data: " + json.dumps(answer, ensure_ascii=False).encode() + b"\r\n\r\n"
        else:
            yield answer


def _whole(answers: Iterable[dict[str, Any] | Step]) -> Iterable[Step]:
    """All events as one answer; what misbehaves does so in place of it."""
    merged: dict[str, Any] = {}
    parts: dict[int, list[Any]] = {}
    for answer in answers:
        if isinstance(answer, bytes):
            return whole(200, answer, "text/html")
        if not isinstance(answer, dict):
            return iter([answer])
        if "error" in answer:
            return whole(200, [answer])
        for candidate in answer.get("candidates", []):
            parts.setdefault(candidate["index"], []).extend(candidate["content"]["parts"])
        merged |= answer
    if parts:
        merged["candidates"] = [_candidate(said, "STOP", index) for index, said in parts.items()]
    return whole(200, merged)
