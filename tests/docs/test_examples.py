"""The documents' examples are run: commands against a real gateway, configurations by the checker, files in a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import aidock
from gateway.settings.schema import Settings
from tests.docs.blocks import Block, Step, blocks_of, pattern, steps_of
from tests.support.gateway import ROOT, Gateway

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md"))
)
RUN = frozenset({"aidock", "cat", "cp", "curl", "echo", "export", "mkdir", "sleep", "sqlite3"})
SKIPPED = frozenset({"apt-get", "cd", "docker", "git", "kill", "make", "source"})
"""What installs, needs the network, or ends the gateway that the other examples need."""
SHOWN = frozenset({"text", "nginx", "toml"})
"""What is there to be read."""

ADDRESS = "127.0.0.1:8080"
KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "EXAMPLE_API_KEY")


class Story:
    """One document's examples, run in order. The newest configuration it showed is `aidock.yaml`."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "work"
        self._directory = directory
        self._gateway: Gateway | None = None
        self._printed = ""
        self.folder.mkdir()
        programs = directory / "bin"
        programs.mkdir()
        command = programs / "aidock"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
        command.chmod(0o755)

    @property
    def gateway(self) -> Gateway:
        """Started when it is first needed, as a newcomer would: without a key of its own."""
        if self._gateway is None:
            self._gateway = Gateway(self._directory, environ={"AIDOCK_INIT_API_KEY": ""})
            self._gateway.start()
            found = re.search(r"sk-aidock-\w+", self.welcome)
            assert found is not None
            self._gateway.key = found[0]
            (self.folder / "aidock-data").symlink_to(self._gateway.data)
        return self._gateway

    @property
    def welcome(self) -> str:
        """What the gateway said when it started, its data being where they are unless told otherwise."""
        return (self.gateway.directory / "stderr").read_text().replace(str(self.gateway.data), "aidock-data")

    def close(self) -> None:
        if self._gateway is not None:
            assert self._gateway.stop() == 0

    def play(self, block: Block) -> None:
        match block.language:
            case "bash" | "sh" | "console":
                for step in steps_of(block):
                    self._step(block, step)
            case "python" if block.file is None:
                self._printed = self._run(block, [sys.executable, "-c", self._here(block.text)])
            case "yaml" if block.file is None:
                self._check(block)
            case "text" if self._printed:
                assert pattern(block.text).fullmatch(self._printed + "\n"), f"{block.place}: {self._printed}"
        if block.language != "python":
            self._printed = ""

    def _step(self, block: Block, step: Step) -> None:
        programs = step.programs
        unknown = set(programs) - RUN - SKIPPED
        assert not unknown, f"{block.place}: nobody said how to test {', '.join(unknown)}"
        if step.command == "make run":
            said = self.welcome
        elif SKIPPED.intersection(programs) or step.command.startswith("aidock serve") or not _installed(programs):
            return
        else:
            said = self._run(block, ["bash", "-euo", "pipefail", "-c", self._here(step.command)])
        if step.output is not None:
            shown = self._here(step.output)
            assert pattern(shown).fullmatch(said.rstrip() + "\n"), f"{block.place}: {step.command}\n{said}"

    def _check(self, block: Block) -> None:
        unknown = set(yaml.safe_load(block.text)) - set(Settings.model_fields)
        assert not unknown or "wrong" in block.marks, f"{block.place}: not a configuration: {unknown}"
        file = self.folder / "aidock.yaml"
        file.write_text(block.text)
        if "wrong" not in block.marks:
            environ = {"AIDOCK_CONFIG": None, **dict.fromkeys(KEYS, "a-key")}
            checked = CliRunner().invoke(aidock, ["config", "check", str(file)], env=environ)
            assert checked.exit_code == 0, f"{block.place}: {checked.output}"
            assert "warning" not in checked.output, f"{block.place}: {checked.output}"

    def _run(self, block: Block, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        refused = done.returncode != 0
        assert refused == ("fails" in block.marks), (
            f"{block.place}: {command[-1]}\nexit {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def _here(self, text: str) -> str:
        """The text with the documents' address replaced by that of the gateway under test."""
        return text.replace(ADDRESS, f"127.0.0.1:{self.gateway.port}")

    def _environ(self) -> Mapping[str, str]:
        return {
            "PATH": os.pathsep.join(
                (str(self._directory / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
            ),
            "HOME": str(self._directory),
            "PYTHONPATH": str(ROOT),
            "AIDOCK_DATA": str(self._directory / "data"),
            "AIDOCK_API_KEY": self._gateway.key if self._gateway else "",
            "NO_PROXY": "*",
            **dict.fromkeys(KEYS, "a-key"),
        }


def _installed(programs: list[str]) -> bool:
    """False for a line with sqlite3 where there is none; the rest is everywhere."""
    return "sqlite3" not in programs or shutil.which("sqlite3") is not None


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_work(page: str, tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / page, page)
    unknown = {block.language for block in blocks} - {"bash", "sh", "console", "python", "yaml"} - SHOWN
    assert not unknown, f"{page}: say what these blocks are, as text perhaps: {unknown}"
    story = Story(tmp_path)
    try:
        for block in blocks:
            story.play(block)
    finally:
        story.close()


ARCHITECTURE = "docs/architecture.md"
COPIED = ("gateway", "providers", "policies", "config", "migrations", "tests/support", "tests/providers")

USES_ALL = """
providers:
  acme: {dialect: acme, base_url: "http://127.0.0.1:1/v1"}
  example: {}
models:
  - {model_id: one, display_name: The first, provider: acme}
  - {model_id: two, display_name: The second, provider: example}
policies: [model_access, short_prompts: {most_tokens: 1000}]
"""


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the program with the files that the architecture page shows, each where its first line says."""
    copy = tmp_path / "copy"
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for block in blocks_of(ROOT / ARCHITECTURE, ARCHITECTURE):
        if block.file is not None:
            _place(copy / block.file, block.text)
    return copy


def test_what_the_architecture_page_adds_is_found_and_works(extended: Path) -> None:
    tests = sorted(str(path.relative_to(extended)) for path in extended.glob("tests/*/test_*.py"))
    shown = [test for test in tests if not (ROOT / test).exists()]
    assert len(shown) == 4, shown
    _in(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shown)


def test_a_configuration_can_use_what_the_architecture_page_adds(extended: Path) -> None:
    (extended / "all.yaml").write_text(USES_ALL)
    _in(extended, "-m", "gateway", "config", "check", "all.yaml")
    listed = _in(extended, "-m", "gateway", "models", "--config", "all.yaml")
    assert [line.split() for line in listed.splitlines()][1:] == [["one", "The", "first"], ["two", "The", "second"]]


def _place(path: Path, text: str) -> None:
    """Write a new file; give an existing one the lines shown: a row at its end, a command at the head of its table."""
    _, added = text.split("\n", 1)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif path.suffix == ".yaml":
        path.write_text(path.read_text() + added)
    else:
        before = path.read_text()
        assert before.count("_COMMANDS = {\n") == 1
        path.write_text(before.replace("_COMMANDS = {\n", "_COMMANDS = {\n" + added))


def _in(folder: Path, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(folder), "AIDOCK_DATA": str(folder / "data"), "EXAMPLE_API_KEY": "k"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={name: value for name, value in environ.items() if name != "AIDOCK_CONFIG"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
