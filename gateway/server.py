"""Running the gateway: sockets, workers, signals, and an orderly end.

The first SIGTERM or SIGINT drains. The application is told (`begin_drain`) and has `drain_notice` seconds in which it
reports itself not ready while connections are still accepted; then the listener closes and what runs may finish within
`drain_seconds`; what does not is ended by the application itself (`end_calls`), and cut off where that does not help.
The lifespan's shutdown is awaited in every case, and the exit code is 0. A second signal ends the process at once with
exit code 1; what was running is recovered from the journal at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Protocol, runtime_checkable

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from gateway.guard import GuardLimits, GuardProtocol, guard_protocol

APP: Final = "gateway.app:create"
BACKLOG: Final = 2048
END_CALLS_SECONDS: Final = 3.0
"""How long the application has to end the calls that outlived the drain."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS: Final = 0.05
_CUT_SECONDS: Final = 1.0

_log = logging.getLogger("aidock.server")


class AddressInUse(Exception):
    """Another program has the port. The message names a remedy."""


class CannotListen(Exception):
    """The address is not this machine's, or not this user's to listen on."""


@runtime_checkable
class Drainable(Protocol):
    """An application that takes part in its own end."""

    def begin_drain(self) -> None:
        """The process will stop: report not ready, take no new background work."""

    def end_calls(self) -> None:
        """End every running call now, telling its client, and settle it."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how to serve. Times are seconds. `keep_alive` is how long an idle connection is kept: longer than
    clients and load balancers keep theirs, so that it is they who close."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    drain_notice: float = 1.0
    drain_seconds: float = 30.0
    keep_alive: int = 75
    limits: GuardLimits = field(default_factory=GuardLimits)


def run(settings: ServerSettings, app: str = APP, *, ready: Callable[[], None] | None = None) -> int:
    """Serve until told to stop, and give the exit code. `ready` is called once, when every worker serves.

    `app` names a factory, `module:function`, which every worker calls without arguments; what it needs to know it
    finds in the environment. Raises `AddressInUse` and `CannotListen` before anything is started.
    """
    listener = listen(settings.host, settings.port)
    config = server_config(settings, app)
    try:
        if settings.workers > 1:
            return Supervisor(config, settings, [listener], ready).serve()
        Server(config, settings, ready=ready).run(sockets=[listener])
    except SystemExit as stop:  # uvicorn's way to say that the application did not start
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        listener.close()
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `AddressInUse` and `CannotListen`."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise CannotListen(
            f"{host!r} is not an address to listen on: {error.strerror}. Set another with --host."
        ) from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"Port {port} on {host} is in use by another program. "
                f"Stop that program, or choose another port with --port or the environment variable PORT."
            ) from error
        raise CannotListen(f"Cannot listen on {host} port {port}: {error.strerror}.") from error
    listener.set_inheritable(True)
    return listener


def server_config(settings: ServerSettings, app: str) -> uvicorn.Config:
    """uvicorn, reduced to what it does here: sockets, loop and lifespan."""
    return uvicorn.Config(
        app,
        factory=True,
        interface="asgi3",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http=guard_protocol(settings.limits),  # type: ignore[arg-type]  # called like a class, which is all uvicorn does
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive,
    )


class Server(uvicorn.Server):
    """One process that serves. A supervised one leaves SIGINT, which a terminal sends to all, to its supervisor."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServerSettings,
        *,
        supervised: bool = False,
        ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._settings = settings
        self._supervised = supervised
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, and drain."""
        self._loop = asyncio.get_running_loop()
        parent = multiprocessing.parent_process() if self._supervised else None
        if parent is not None:
            self._loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)
        await super().serve(sockets)

    async def main_loop(self) -> None:
        if self._ready is not None:
            self._ready()
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the stop signals while serving. Being stopped by one is a clean end: none is raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _STOP_SIGNALS}
        if self._supervised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(1)  # asked twice: nothing is awaited, neither a task nor a thread
        self.stop()

    def stop(self) -> None:
        """Begin to drain. May be called from a signal handler."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut the lifespan down."""
        app = self.config.loaded_app
        drainable = app if isinstance(app, Drainable) else None
        _log.info("Draining.", extra={"running": len(self.server_state.tasks)})
        if drainable is not None:
            drainable.begin_drain()
            await asyncio.sleep(self._settings.drain_notice)
        self._close_listeners(sockets or [])
        for connection in self._connections():
            connection.shutdown()
        if not await self._quiet(self._settings.drain_seconds):
            _log.warning("Ending what still runs.", extra={"running": len(self.server_state.tasks)})
            if drainable is not None:
                drainable.end_calls()
                await self._quiet(END_CALLS_SECONDS)
            await self._cut()
        await self.lifespan.shutdown()

    def _connections(self) -> list[GuardProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, GuardProtocol)]

    def _close_listeners(self, sockets: list[socket.socket]) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    async def _quiet(self, seconds: float) -> bool:
        """Wait until nothing runs and nothing is being sent. False when that takes longer than `seconds`."""
        state = self.server_state
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while state.tasks or state.connections:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _cut(self) -> None:
        """Drop the connections that are left, and cancel the applications that do not notice."""
        for connection in self._connections():
            connection.abort()
        if await self._quiet(_CUT_SECONDS):
            return
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel("the drain is over")
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT_SECONDS)

    def _orphaned(self, sentinel: int) -> None:
        """The supervisor died without a word: a worker that nobody can stop would hold the port for ever."""
        asyncio.get_running_loop().remove_reader(sentinel)
        _log.error("The supervisor is gone; this worker stops.")
        self.stop()


class Worker(Process):
    """A serving child process."""

    def __init__(self, config: uvicorn.Config, settings: ServerSettings, sockets: list[socket.socket]) -> None:
        self._settings = settings
        self._serving = False
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs in the child. Signals that the application has yet to take must not end it meanwhile."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().target(sockets)

    @property
    def server(self) -> Server:
        if not isinstance(self._server, Server):
            self._server = Server(self.config, self._settings, supervised=True, ready=self._announce)
        return self._server

    @property
    def serving(self) -> bool:
        """Whether the child has said that it serves."""
        if not self._serving and self.parent_conn.poll():
            self._serving = self.parent_conn.recv()
        return self._serving

    def _announce(self) -> None:
        self.child_conn.send(True)

    def send(self, number: int) -> None:
        """Send a signal, if there is still a process to take it."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


class Supervisor(Multiprocess):
    """Keeps the workers alive, passes SIGHUP on to them, and drains them all."""

    processes: list[Worker]  # type: ignore[assignment]  # narrower than uvicorn's own

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServerSettings,
        sockets: list[socket.socket],
        ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config, sockets)
        self._settings = settings
        self._ready = ready
        self._at_once = False
        self._exit_code = 0

    def serve(self) -> int:
        """Run until told to stop, and give the exit code."""
        self.run()
        return self._exit_code

    def init_processes(self) -> None:
        self.processes = [self._start() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers; stop where one could not even start, for its successors could not either."""
        for index, worker in enumerate(self.processes):
            if worker.process.is_alive():
                continue
            worker.kill()  # what it closes is our end of its pipe
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                self._exit_code = STARTUP_FAILURE
                self.should_exit.set()
                return
            _log.error("A worker died; another takes its place.", extra={"pid": worker.pid, "code": worker.exitcode})
            self.processes[index] = self._start()
        if self._ready is not None and all(worker.serving for worker in self.processes):
            self._ready()
            self._ready = None

    def join_all(self) -> None:
        """Wait for the workers' drains, or for a second signal."""
        while any(worker.process.is_alive() for worker in self.processes):
            self.handle_signals()
            if self._at_once:
                self._exit_code = 1
                for worker in self.processes:
                    worker.process.kill()
            time.sleep(_POLL_SECONDS)
        super().join_all()

    def handle_term(self) -> None:
        """Drain; asked again, end at once."""
        self._at_once = self.should_exit.is_set()
        self.should_exit.set()

    handle_int = handle_term

    def handle_hup(self) -> None:
        """Every worker reads its configuration again, in place: no process is replaced and no stream cut."""
        for worker in self.processes:
            worker.send(signal.SIGHUP)

    def handle_ttin(self) -> None:
        """The number of workers is configuration, not a signal's business."""

    handle_ttou = handle_ttin

    def _start(self) -> Worker:
        worker = Worker(self.config, self._settings, self.sockets)
        worker.start()
        return worker
