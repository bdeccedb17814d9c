"""`GET /metrics`: Prometheus' text format."""

from __future__ import annotations

from gateway.core.endpoint import Health, Probe, Reply


def _answer(health: Health, query: bytes) -> Reply:
    body, content_type = health.exposition()
    return Reply(200, body, content_type.encode())


ENDPOINT = Probe(name="metrics", path="/metrics", answer=_answer)
