"""Bad input of any kind is the caller's mistake, told in the caller's dialect and at once, and nobody else notices."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, chat
from tests.support.raw_http import Guarded, Reply
from tests.support.until import until

WITHIN_S = 1.0
LONGEST_GAP_S = 1.0
"""Between two tokens of a stream that has one every 25 ms, on a machine that does other things too."""

MESSAGES = b'"messages": [{"role": "user", "content": "Hi"}]'


def body(**members: Any) -> bytes:
    return json.dumps({**chat(), **members}).encode()


def raw(members: bytes) -> bytes:
    return b'{"model": "demo", ' + members + b"}"


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n\t ",
    "not JSON": b"model=demo&messages=Hi",
    "half of it": b'{"model": "demo", "messages": [',
    "too much of it": raw(MESSAGES) + b"}",
    "two of it": raw(MESSAGES) * 2,
    "an array": b"[" + raw(MESSAGES) + b"]",
    "a string": b'"demo"',
    "a number": b"17",
    "null": b"null",
    "NUL bytes": b"\x00" * 64,
    "a byte order mark": b"\xef\xbb\xbf" + raw(MESSAGES),
    "UTF-16": raw(MESSAGES).decode().encode("utf-16"),
    "Latin-1": raw(b'"messages": [{"role": "user", "content": "caf\xe9"}]'),
    "a cut character": raw(b'"messages": [{"role": "user", "content": "\xf0\x9f\xa6"}]'),
    "a bare NaN": raw(MESSAGES + b', "n": NaN'),
    "a bare Infinity": raw(MESSAGES + b', "max_tokens": Infinity'),
    "a single quote": b"{'model': 'demo'}",
    "a trailing comma": raw(MESSAGES + b","),
    "a comment": b"/* hi */" + raw(MESSAGES),
    "deep arrays": raw(b'"messages": ' + b"[" * 100_000 + b"]" * 100_000),
    "deep objects": raw(b'"messages": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]"),
    "gzip": gzip.compress(raw(MESSAGES)),
    "no model": b"{" + MESSAGES + b"}",
    "model null": body(model=None),
    "model empty": body(model=""),
    "model a number": body(model=4),
    "model a list": body(model=["demo"]),
    "model a lone surrogate": raw(MESSAGES).replace(b"demo", b"\\ud800"),
    "model huge": body(model="m" * 1_000_000),
    "model with a path": body(model="../../etc/passwd"),
    "model with a line break": body(model="demo\r\nx-evil: 1"),
    "model with SQL": body(model="demo'; DROP TABLE ledger; --"),
    "no messages": b'{"model": "demo"}',
    "messages null": body(messages=None),
    "messages empty": body(messages=[]),
    "messages a string": body(messages="Hi"),
    "messages an object": body(messages={"role": "user"}),
    "messages of strings": body(messages=["Hi"]),
    "messages of nulls": body(messages=[None]),
    "stream a string": body(stream="yes"),
    "stream a number": body(stream=1),
    "stream an object": body(stream={}),
    "stream_options a string": body(stream=True, stream_options="usage"),
    "stream_options a list": body(stream=True, stream_options=[True]),
    "stream_options a number": body(stream=True, stream_options=1),
    "n zero": body(n=0),
    "n negative": body(n=-1),
    "n huge": body(n=10**9),
    "n beyond any integer": raw(MESSAGES + b', "n": 1' + b"0" * 5000),
    "n a fraction": body(n=1.5),
    "n a string": body(n="2"),
    "n true": body(n=True),
    "max_tokens negative": body(max_tokens=-5),
    "max_tokens a string": body(max_tokens="many"),
    "max_tokens huge": body(max_tokens=10**18),
    "max_tokens beyond any float": raw(MESSAGES + b', "max_tokens": 1e999'),
    "max_completion_tokens a list": body(max_completion_tokens=[1]),
    "stop a number": body(stop=7),
    "a response format nobody knows": body(response_format={"type": "haiku"}),
    "a tool that is not there": body(tool_choice="required"),
}

REQUESTS: dict[str, bytes] = {
    "an unknown path": b"GET /v1/nothing HTTP/1.1\r\n",
    "a path that climbs": b"GET /v1/models/../../etc/passwd HTTP/1.1\r\n",
    "a wrong method": b"DELETE /v1/chat/completions HTTP/1.1\r\n",
    "a method nobody knows": b"BREW /v1/chat/completions HTTP/1.1\r\n",
    "HEAD for a POST": b"HEAD /v1/chat/completions HTTP/1.1\r\n",
    "OPTIONS": b"OPTIONS /v1/chat/completions HTTP/1.1\r\n",
    "GET for a POST": b"GET /v1/embeddings HTTP/1.1\r\n",
    "POST for a GET": b"POST /v1/models HTTP/1.1\r\ncontent-length: 0\r\n",
    "a header without a colon": b"GET /v1/models HTTP/1.1\r\nnonsense\r\n",
    "a huge header": b"GET /v1/models HTTP/1.1\r\nx-huge: " + b"h" * 200_000 + b"\r\n",
    "ten thousand headers": b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 10_000,
    "a huge path": b"GET /v1/models/" + b"m" * 200_000 + b" HTTP/1.1\r\n",
    "two lengths": b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
    "a length and chunks": b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
    "a negative length": b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: -5\r\n",
    "too large a body": b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 99999999999\r\n",
}

MODELS = [
    "",
    "nothing",
    "a/b/c",
    "%2e%2e%2fetc",
    "%00",
    "%ff%fe",
    "%",
    "%zz",
    "demo%20",
    "demo/",
    "a" * 4000,
    "%F0%9F%A6%86",
]

KEYS: dict[str, dict[str, str]] = {
    "none": {},
    "Bearer alone": {"authorization": "Bearer"},
    "two words": {"authorization": "Bearer sk-aidock one"},
    "no scheme": {"authorization": "sk-aidock-000"},
    "Basic": {"authorization": "Basic YWRhOmFkYQ=="},
    "Token": {"authorization": "Token sk-aidock-000"},
    "a very long key": {"authorization": "Bearer " + "k" * 8000},
    "the wrong prefix": {"authorization": "Bearer sk-proj-0123456789"},
    "the shape alone": {"authorization": "Bearer sk-aidock-" + "A" * 61},
    "another vendor's header": {"x-goog-api-key": "AIza0123"},
}

SQL = [
    f"{start}{middle}{end}"
    for start in ("'", '"', "1", "sk-aidock-'", "\\'")
    for middle in (" OR 1=1", "; DROP TABLE api_keys", " UNION SELECT * FROM api_keys", "||pg_sleep(5)")
    for end in ("--", " /*")
]


@asynccontextmanager
async def unharmed(gateway: Gateway) -> AsyncIterator[None]:
    """A stream that runs meanwhile must not stutter; afterwards the same process serves and has logged no error."""
    pid, longest, pieces = gateway.pid, 0.0, 0

    async def listen() -> None:
        nonlocal longest, pieces
        async with gateway.client() as client:
            body = chat("/long 100000", stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                last = time.monotonic()
                async for _ in answer.aiter_raw():
                    now = time.monotonic()
                    longest, last, pieces = max(longest, now - last), now, pieces + 1

    listening = asyncio.create_task(listen())
    try:
        await until(lambda: pieces > 0)
        yield
        seen = pieces
        await until(lambda: pieces > seen + 5)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    print(f"longest gap {longest * 1000:.0f} ms")
    assert longest < LONGEST_GAP_S
    assert gateway.running
    assert gateway.pid == pid
    assert gateway.errors() == []
    assert b"Traceback" not in (gateway.directory / "stderr").read_bytes()


def check(what: str, answer: httpx.Response, within_s: float = WITHIN_S) -> dict[str, Any]:
    """The error, if the answer is a proper one."""
    assert 400 <= answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"] == "application/json", what
    assert len(answer.headers["x-request-id"]) == 36, what
    assert answer.elapsed.total_seconds() < within_s, f"{what} took {answer.elapsed}"
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}, what
    assert error["message"], what
    assert "Traceback" not in error["message"], what
    assert len(answer.content) < 2_000, what
    return error


async def test_a_bad_body_is_a_400_and_an_unknown_model_a_404(demo: Gateway) -> None:
    async with unharmed(demo), demo.client() as client:
        for what, content in BODIES.items():
            headers = {"content-type": "application/json"}
            answer = await client.post("/v1/chat/completions", content=content, headers=headers)
            error = check(what, answer)
            assert answer.status_code == (404 if error["code"] == "model_not_found" else 400), what
            assert answer.headers["x-should-retry"] == "false", what
    assert not demo.rows("status >= 500")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_the_other_endpoints_refuse_bad_bodies_too(demo: Gateway, path: str) -> None:
    name = "prompt" if "comp" in path else "input"
    bad: list[Any] = [
        None,
        "",
        [],
        {},
        7,
        True,
        [""],
        [[]],
        [None],
        [["a"]],
        {"a": 1},
        [1.5],
        "x" * 2_000_000 and [[-1.5]],
    ]
    async with demo.client() as client:
        for value in bad:
            check(f"{name}={value!r}", await client.post(path, json={"model": "demo", name: value}))


async def test_a_content_type_is_not_what_makes_a_request_good_or_bad(demo: Gateway) -> None:
    async with unharmed(demo), demo.client() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense"):
            answer = await client.post("/v1/chat/completions", content=raw(MESSAGES), headers={"content-type": kind})
            assert answer.status_code in (200, 400, 415), kind
            answer = await client.post("/v1/chat/completions", content=b"a=b", headers={"content-type": kind})
            check(kind, answer)
        headers = {"content-encoding": "gzip"}
        check("gzip", await client.post("/v1/chat/completions", content=gzip.compress(raw(MESSAGES)), headers=headers))


async def test_odd_credentials_are_401_and_two_different_ones_400(demo: Gateway) -> None:
    async with unharmed(demo), httpx.AsyncClient(base_url=demo.url, trust_env=False, verify=False) as client:
        for what, headers in KEYS.items():
            error = check(what, await client.post("/v1/chat/completions", json=chat(), headers=headers))
            assert error["code"] == "invalid_api_key", what
        in_query = await client.post(f"/v1/chat/completions?api_key={demo.key}&key={demo.key}", json=chat())
        assert check("key in the query", in_query)["code"] == "invalid_api_key"
        headers = {"authorization": f"Bearer {demo.key}", "x-api-key": "sk-aidock-other"}
        answer = await client.post("/v1/chat/completions", json=chat(), headers=headers)
        check("two keys", answer)
        assert answer.status_code == 400
        headers["x-api-key"] = demo.key
        assert (await client.post("/v1/chat/completions", json=chat(), headers=headers)).status_code == 200


async def test_forty_injections_as_keys_open_nothing_and_break_nothing(demo: Gateway) -> None:
    assert len(SQL) == 40
    async with unharmed(demo), httpx.AsyncClient(base_url=demo.url, trust_env=False, verify=False) as client:
        for payload in SQL:
            for headers in ({"authorization": f"Bearer {payload}"}, {"x-api-key": payload}):
                assert check(payload, await client.get("/v1/models", headers=headers))["code"] == "invalid_api_key"
    assert (await demo.ask("/v1/models")).status_code == 200


async def test_odd_model_ids_in_the_path_are_not_found(demo: Gateway) -> None:
    async with unharmed(demo):
        for model in MODELS:
            reply = await _send(demo, f"GET /v1/models/{model} HTTP/1.1\r\n".encode())
            assert 400 <= reply.status < 500, model
            assert reply.error["code"] in ("model_not_found", "not_found", "invalid_request"), model
    assert (await demo.ask("/v1/models/demo")).json()["id"] == "demo"
    assert (await demo.ask("/v1/models/%64emo")).json()["id"] == "demo"


async def test_odd_requests_are_refused_in_the_same_words(demo: Gateway) -> None:
    async with unharmed(demo):
        for what, request in REQUESTS.items():
            began = time.monotonic()
            reply = await _send(demo, request)
            assert time.monotonic() - began < WITHIN_S, what
            assert 400 <= reply.status < 500, f"{what}: {reply}"
            assert len(reply.headers["x-request-id"]) == 36, what
            if not what.startswith("HEAD"):
                assert reply.error.keys() == {"message", "type", "param", "code"}, what


async def _send(gateway: Gateway, request: bytes) -> Reply:
    rest = b"host: a\r\nconnection: close\r\nauthorization: Bearer " + gateway.key.encode() + b"\r\n\r\n"
    peer = await Guarded(gateway.port, None).connect()  # type: ignore[arg-type]  # only the port is used
    try:
        await peer.send(request + rest)
        if request.startswith(b"HEAD"):
            head = (await peer.until(b"\r\n\r\n")).decode()
            return Reply(int(head.split()[1]), dict(line.split(": ", 1) for line in head.splitlines()[1:-1]), b"")
        return await peer.reply()
    finally:
        peer.close()
