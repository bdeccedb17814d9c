"""A small HTTP server for upstreams of tests: in threads of its own, so that clients that block can be tested too."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.gateway import free_port

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Upstream:
    """`answer` gets every call and its document. `requests` has what was asked, path and document; `left` counts the
    callers that went before the end."""

    def __init__(self, answer: Answer) -> None:
        self.port = free_port()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.left = 0
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.requests.append((self.path, document))
                try:
                    answer(self, document)
                except (BrokenPipeError, ConnectionResetError):
                    upstream.left += 1
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self) -> dict[str, Any]:
        """The last document that was asked."""
        return self.requests[-1][1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def upstream(answer: Answer) -> Iterator[Upstream]:
    """A running one."""
    made = Upstream(answer)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def last_text(value: Any) -> str:
    """The last text of messages, items or parts."""
    while isinstance(value, (list, dict)):
        value = (value[-1] if value else "") if isinstance(value, list) else value.get("content") or value.get("text")
    return value or ""


def send(peer: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
    """A whole answer."""
    body = json.dumps(document).encode()
    peer.send_response(status)
    peer.send_header("content-type", "application/json")
    peer.send_header("content-length", str(len(body)))
    peer.end_headers()
    peer.wfile.write(body)


def begin_stream(peer: BaseHTTPRequestHandler) -> None:
    """The head of a streamed one; `write` gives its pieces, the last of them empty."""
    peer.send_response(200)
    peer.send_header("content-type", "text/event-stream")
    peer.send_header("transfer-encoding", "chunked")
    peer.end_headers()


def write(peer: BaseHTTPRequestHandler, data: bytes) -> None:
    peer.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
