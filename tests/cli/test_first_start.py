"""The first start prints, once, a key and a curl that works as pasted. A later start prints no secret."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.cli.command import Shell
from tests.support.processes import free_port


@contextmanager
def serving(shell: Shell, *words: str) -> Iterator[tuple[int, Path]]:
    """A gateway that is ready, the port it has, and the file that its words go to."""
    port, words_file = free_port(), shell.directory / f"words-{time.monotonic_ns()}"
    with words_file.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--port", str(port), *words],
            cwd=shell.directory,
            env=shell.environ({"AIDOCK_SERVER__DRAIN_NOTICE": "0"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        deadline = time.monotonic() + 30
        while b"Stop Ctrl+C" not in words_file.read_bytes():
            assert process.poll() is None, words_file.read_text()
            assert time.monotonic() < deadline, words_file.read_text()
            time.sleep(0.02)
        yield port, words_file
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_first_start_shows_a_key_and_a_curl_that_works_and_the_second_shows_no_secret(fresh: Shell) -> None:
    with serving(fresh) as (port, words):
        said = words.read_text()
        key = re.search(r"API key +(sk-aidock-\S+)", said)
        assert key is not None
        assert f"http://127.0.0.1:{port}" in said
        pasted = said[said.index("  curl") : said.index("\nData in ")]
        answered = subprocess.run(["bash", "-c", pasted], capture_output=True, timeout=30, check=False)
        assert answered.returncode == 0
        assert answered.stdout.startswith(b"data: {")
        assert answered.stdout.endswith(b"data: [DONE]\n\n")
        _clients_work(fresh, port, key[1])
    assert said.count("API key ") == 1

    with serving(fresh) as (port, words):
        again = words.read_text()
        assert "sk-aidock-" not in again
        assert "curl" not in again
        assert httpx.get(f"http://127.0.0.1:{port}/v1/me", headers={"x-api-key": key[1]}).status_code == 200


def _clients_work(shell: Shell, port: int, key: str) -> None:
    """What `aidock connect` prints does what it says, run as it stands."""
    at = ("--base-url", f"http://127.0.0.1:{port}")
    python, curl = shell.each([(("connect", "python", *at), {}), (("connect", "curl", *at), {})])
    env = shell.environ({"AIDOCK_API_KEY": key})
    script = shell.write("hello.py", python.out)
    ran = subprocess.run([sys.executable, script], env=env, capture_output=True, timeout=60, check=False)
    assert (ran.returncode, bool(ran.stdout.strip())) == (0, True), ran.stderr
    ran = subprocess.run(["bash", "-c", curl.out], env=env, capture_output=True, timeout=60, check=False)
    assert ran.stdout.endswith(b"data: [DONE]\n\n")
