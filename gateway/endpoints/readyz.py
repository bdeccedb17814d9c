"""`GET /readyz`: whether new work is welcome. `?verbose` lists the checks."""

from __future__ import annotations

from gateway.core.endpoint import Health, Probe, Reply

_TEXT = b"text/plain; charset=utf-8"


def _answer(health: Health, query: bytes) -> Reply:
    ready, checks = health.ready()
    lines = ["ready" if ready else "not ready"]
    if b"verbose" in query:
        lines += [f"{name}: {state}" for name, state in checks.items()]
    return Reply(200 if ready else 503, ("\n".join(lines) + "\n").encode(), _TEXT)


ENDPOINT = Probe(name="readyz", path="/readyz", answer=_answer)
