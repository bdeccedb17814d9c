"""`GET /livez` (and `/healthz`): the process answers. No I/O, so that a slow database never restarts a gateway."""

from __future__ import annotations

from gateway.core.endpoint import Health, Probe, Reply

_ALIVE = Reply(200, b"ok\n", b"text/plain; charset=utf-8")


def _answer(health: Health, query: bytes) -> Reply:
    return _ALIVE


ENDPOINT = Probe(name="livez", path="/livez", aliases=("/healthz",), answer=_answer)
