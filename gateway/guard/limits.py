"""How much and how long a peer may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Seconds and bytes.

    `header_timeout` runs from the first byte of a request, or from the connection's start while there is none.
    `body_timeout` runs from the end of the head to the end of the body, however steadily it arrives, less the time the
    application itself kept the client waiting. `write_timeout` is how long the client may leave the transport's buffer
    above its high-water mark. `linger_timeout` is how long a connection that was answered early stays half open for the
    client to read the answer.
    """

    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    linger_timeout: float = 2.0
    max_body_bytes: int = 50 * 2**20
    max_header_bytes: int = 64 * 2**10
    max_headers: int = 128
    max_target_bytes: int = 8 * 2**10
