"""The server's edge: one asyncio protocol that parses, guards and answers HTTP/1.

uvicorn keeps sockets, signals and lifespan; this replaces its protocol class. What a peer can send, how long it may
take and how much memory it can hold are bounded here, so that an application sees only well-formed requests.
"""

from gateway.guard.limits import GuardLimits
from gateway.guard.protocol import GuardProtocol, guard_protocol

__all__ = ["GuardLimits", "GuardProtocol", "guard_protocol"]
