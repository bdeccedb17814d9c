"""An application for server tests. It tells its story on stdout, one word a line, and runs in processes of its own.

`RAW_APP_PORT=18123 python -m tests.support.raw_app` serves it; settings come from `RAW_APP_*`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from gateway.guard import GuardLimits
from gateway.server import AddressInUse, CannotListen, ServerSettings, run


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


class StoryApp:
    """`/` answers at once with the pid, `/stream` for as long as its query says, `/stuck` until it is cancelled."""

    def __init__(self) -> None:
        self.draining = False
        self.ending = asyncio.Event()

    def begin_drain(self) -> None:
        self.draining = True
        say("begin_drain")

    def end_calls(self) -> None:
        say("end_calls")
        self.ending.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        await receive()
        await send({"type": "http.response.start", "status": 503 if self.draining else 200, "headers": []})
        if scope["path"] == "/stream":
            await self.stream(float(scope["query_string"]), send)
        elif scope["path"] == "/stuck":
            await send({"type": "http.response.body", "body": b"stuck", "more_body": True})
            await asyncio.sleep(60)
        await send({"type": "http.response.body", "body": b"%d" % os.getpid()})

    async def live(self, receive: Any, send: Any) -> None:
        await receive()
        if os.environ.get("RAW_APP_FAILS"):
            await send({"type": "lifespan.startup.failed", "message": "told to fail"})
            return
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, say, f"reload {os.getpid()}")
        await send({"type": "lifespan.startup.complete"})
        say(f"started {os.getpid()}")
        await receive()
        say("shutdown")
        await asyncio.sleep(0.2)
        say("settled")
        await send({"type": "lifespan.shutdown.complete"})

    async def stream(self, seconds: float, send: Any) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            if self.ending.is_set():
                await send({"type": "http.response.body", "body": b"event: error\n\n"})
                return
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.05)


def create() -> StoryApp:
    return StoryApp()


def main() -> int:
    def number(name: str, default: float) -> float:
        return float(os.environ.get(f"RAW_APP_{name}", default))

    settings = ServerSettings(
        port=int(number("PORT", 0)),
        workers=int(number("WORKERS", 1)),
        drain_notice=number("NOTICE", 0.3),
        drain_seconds=number("DRAIN", 10),
        limits=GuardLimits(max_body_bytes=int(number("BODY", 1000))),
    )
    try:
        return run(settings, "tests.support.raw_app:create", ready=lambda: say("ready"))
    except (AddressInUse, CannotListen) as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
