"""The bench's own machinery, with a bare server in the gateway's place."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import targets
from bench.load import complaint
from bench.processes import PROJECT, Broken, Child, free_port, get, python
from bench.rows import ROWS, Effort, Load, Stage, Unavailable
from bench.targets import Gateway

BARE = (
    f"{sys.executable} -m uvicorn tests.bench.bare_app:app --lifespan off --no-access-log --log-level warning "
    "--port {port}"
)
GLIMPSE = Effort(rounds=1, plain_s=0.3, stream_s=0.3, latency_rounds=2, latency_s=0.05, starts=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    def no_redis() -> Gateway:
        raise Unavailable("no Redis here")

    with ExitStack() as stack:
        upstream = stack.enter_context(targets.upstream())
        nginx = stack.enter_context(targets.nginx(tmp_path / "nginx", upstream))
        gateway = Gateway(tmp_path / "gateway", upstream, command=BARE)
        stack.callback(gateway.stop)
        gateway.start()
        loads = [Load(stack.enter_context(Child(python("bench.load")))) for _ in range(2)]
        yield Stage(
            effort=GLIMPSE,
            upstream=upstream,
            nginx=nginx,
            gateway=gateway,
            load=loads[0],
            second_load=loads[1],
            redis_gateway=no_redis,
        )


def test_a_plain_call_is_measured_beside_nginx(stage: Stage) -> None:
    row = ROWS["plain"].row(stage)
    assert not row.trouble
    assert row.figures is not None
    assert 1 < row.figures.measured.median < 100_000
    if stage.nginx is None:
        assert row.verdict == "no reference"
        pytest.skip(targets.INSTALL_NGINX)
    assert row.figures.reference is not None
    assert row.figures.reference.median > 1


def test_latency_start_and_memory_are_measured(stage: Stage) -> None:
    rows = [ROWS[name].row(stage) for name in ("latency", "start", "memory")]
    assert [row.trouble for row in rows] == ["", "", ""]


def test_wrong_answers_break_a_row(stage: Stage) -> None:
    row = ROWS["stream"].row(stage)
    assert row.verdict == "BROKEN"
    assert "the stream did not end with [DONE]" in row.trouble


def test_a_gateway_that_is_gone_breaks_a_row(stage: Stage) -> None:
    stage.gateway.stop()
    assert ROWS["plain"].row(stage).verdict == "BROKEN"


def test_a_row_without_its_means_is_skipped_with_the_reason(stage: Stage) -> None:
    row = ROWS["redis"].row(stage)
    assert (row.verdict, row.trouble) == ("skipped", "no Redis here")


def test_the_upstream_streams_what_the_model_says_and_usage_when_asked() -> None:
    with targets.upstream() as upstream:
        paced = _stream(upstream.port, b'{"model":"paced-4x1ms","stream":true}')
        asked = _stream(upstream.port, b'{"model": "paced-4x1ms", "stream": true, "o": {"include_usage": true}}')
        assert get(upstream.port, "/v1/nothing")[0] == 404
    assert paced.count(b"data: {") == 4
    assert b'"usage"' not in paced
    assert asked.count(b"data: {") == 5
    assert asked.count(b'"usage"') == 1
    assert asked.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def _stream(port: int, body: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        reply = b""
        while not reply.endswith(b"\r\n0\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece, "the upstream closed in mid-stream"
            reply += piece
    return reply


@pytest.mark.parametrize(
    ("status", "body", "chunks", "wrong"),
    [
        (200, b'{"object":"chat.completion"}', 0, None),
        (200, b'{"object":"chat.completion"', 0, "not a completion"),
        (429, b'{"error":{}}', 0, "status 429"),
        (200, b"data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", 2, None),
        (200, b"data: {}\n\ndata: [DONE]\n\n", 2, "1 events in a stream of 2"),
        (200, b"data: {}\n\ndata: {}\n\n", 2, "did not end"),
    ],
)
def test_every_answer_is_checked(status: int, body: bytes, chunks: int, wrong: str | None) -> None:
    found = complaint(status, body, chunks)
    assert (found is None) == (wrong is None)
    assert wrong is None or wrong in str(found)


def test_what_does_not_start_says_so_with_its_last_words(tmp_path: Path) -> None:
    script = "import sys; sys.exit('no such colour')"
    with (
        Child([sys.executable, "-c", script], log=tmp_path / "log") as child,
        pytest.raises(Broken, match=r"(?s)ended with status 1 before it was ready.*no such colour"),
    ):
        child.wait_until_ready(free_port())


def test_a_child_that_will_not_end_is_ended_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.processes.STOP_S", 0.2)
    script = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with Child([sys.executable, "-c", script]) as child:
        grandchild = int(child.answer(20))
    assert not _runs(child.pid)
    deadline = time.monotonic() + 10
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)  # it was killed, but its end is not ours to wait for
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_the_command_line_measures_one_row_and_leaves_figures_behind(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--quick", "--only", "memory", "--json", str(figures), "--command", BARE]
    done = subprocess.run(
        python("bench", *options), cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "idle memory" in done.stdout
    assert '"title": "idle memory"' in figures.read_text()


def test_a_private_redis_is_started_where_there_is_one_and_a_wanted_one_is_left_alone(tmp_path: Path) -> None:
    with targets.redis(tmp_path / "wanted", "redis://there:1/0") as url:
        assert url == "redis://there:1/0"
    if targets.redis_command() is None:
        pytest.skip(targets.INSTALL_REDIS)
    with targets.redis(tmp_path / "private", "auto") as url:
        assert url is not None
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"


def test_a_gateway_is_not_steered_by_the_environment_of_the_bench() -> None:
    environment = {"PATH": "/bin", "REDIS_URL": "redis://x", "https_proxy": "http://x", "AIDOCK_CONFIG": "x.yaml"}
    assert targets.neutral(environment) == {"PATH": "/bin"}
