"""Embeddings of Google's models: what is asked, what comes back."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from gateway.core.deployment import Target
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers.gemini import PROVIDER
from tests.providers.calls import EMBEDDINGS, a_call
from tests.providers.gemini import studio, vertex


def embedded(target: Target, **members: Any) -> tuple[bytes, Any]:
    request = PROVIDER.request(a_call({"model": "m", "input": "Hi", **members}, endpoint=EMBEDDINGS), target)
    return request.target, json.loads(request.body)


def test_ai_studio_embeds_in_batches() -> None:
    target, body = embedded(studio("gemini-embedding-001"), input=["a", "b"], dimensions=3, task_type="CLUSTERING")
    assert target == b"/v1beta/models/gemini-embedding-001:batchEmbedContents"
    settings = {"model": "models/gemini-embedding-001", "taskType": "CLUSTERING", "outputDimensionality": 3}
    assert body == {"requests": [{"content": {"parts": [{"text": text}]}, **settings} for text in ("a", "b")]}


def test_vertex_embeds_in_batches_or_predicts() -> None:
    target, body = embedded(vertex("gemini-embedding-2"), dimensions=3)
    assert target.endswith(b"/models/gemini-embedding-2:batchEmbedContents")
    assert body == {
        "requests": [{"content": {"parts": [{"text": "Hi"}]}, "embedContentConfig": {"outputDimensionality": 3}}]
    }
    target, body = embedded(vertex("text-embedding-005"), input=["a", "b"], dimensions=3, taskType="RETRIEVAL_QUERY")
    assert target.endswith(b"/models/text-embedding-005:predict")
    assert body == {
        "instances": [{"content": text, "task_type": "RETRIEVAL_QUERY"} for text in ("a", "b")],
        "parameters": {"outputDimensionality": 3},
    }


def test_tokens_cannot_be_embedded() -> None:
    with pytest.raises(GatewayError) as caught:
        embedded(studio(), input=[1, 2, 3])
    assert (caught.value.status, caught.value.param) == (400, "input")


def read(document: Any, target: Target | None = None, **members: Any) -> tuple[Any, Usage | None]:
    call = a_call({"model": "m", "input": ["a", "b"], **members}, endpoint=EMBEDDINGS)
    answer = PROVIDER.answer(call, target or studio(), json.dumps(document).encode())
    return json.loads(answer.body), answer.usage


BATCH = {"embeddings": [{"values": [0.5, -1]}, {"values": [0.25, 2]}]}


def test_vectors_come_in_order_and_unknown_usage_is_unknown() -> None:
    told, usage = read(BATCH)
    assert [item["embedding"] for item in told["data"]] == [[0.5, -1], [0.25, 2]]
    assert usage is None
    assert told["usage"] == {"prompt_tokens": 0, "total_tokens": 0}, "as the ledger reckons it"


def test_usage_is_told_where_the_model_counts() -> None:
    told, usage = read({**BATCH, "usageMetadata": {"promptTokenCount": 6}})
    assert usage == Usage(6, 0)
    assert told["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_predictions_are_counted_one_by_one() -> None:
    predictions = [
        {"embeddings": {"values": [1.5], "statistics": {"token_count": 2.0, "truncated": False}}},
        {"embeddings": {"values": [2.5], "statistics": {"token_count": 3}}},
    ]
    told, usage = read({"predictions": predictions}, vertex("text-embedding-005"))
    assert [item["embedding"] for item in told["data"]] == [[1.5], [2.5]]
    assert usage == Usage(5, 0)


def test_a_client_that_asks_for_base64_gets_it() -> None:
    told, _ = read(BATCH, encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(told["data"][1]["embedding"])) == (0.25, 2.0)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        "x",
        {"embeddings": {}},
        {"embeddings": [{"values": [1]}]},
        {"embeddings": [{"values": ["a"]}, {"values": [1]}]},
        {"embeddings": [None, 3]},
        {"predictions": [None, {"embeddings": []}]},
        {"error": {"code": 500, "message": "x"}},
    ],
)
def test_what_is_no_answer_is_a_502(document: Any) -> None:
    with pytest.raises(GatewayError) as caught:
        read(document)
    assert caught.value.status == 502
