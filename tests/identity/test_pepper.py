from __future__ import annotations

import secrets
import subprocess
import sys

import pytest

from gateway.identity.pepper import FILE_NAME, VARIABLE, Pepper, PepperRefused, confirm, load_pepper
from tests.support.database import ready_database


def test_the_first_start_makes_a_private_file_and_later_ones_use_it(tmp_path):
    folder = tmp_path / "data"
    first = load_pepper({}, folder)
    path = folder / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    before = path.read_bytes()
    assert load_pepper({}, folder).key == first.key
    assert path.read_bytes() == before
    assert [found.name for found in folder.iterdir()] == [FILE_NAME]


def test_two_installations_have_two_peppers(tmp_path):
    assert load_pepper({}, tmp_path / "a").key != load_pepper({}, tmp_path / "b").key


def test_the_environment_comes_first_and_makes_no_file(tmp_path):
    secret = secrets.token_urlsafe(32)
    assert load_pepper({VARIABLE: f" {secret}\n"}, tmp_path).key == Pepper(secret.encode()).key
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [secrets.token_hex, secrets.token_urlsafe])
def test_what_generators_make_is_strong_enough(tmp_path, make):
    for _ in range(200):
        load_pepper({VARIABLE: make(32)}, tmp_path)


@pytest.mark.parametrize(
    "weak",
    [
        "hunter2",
        "a" * 64,
        "abcd" * 20,
        "changeme-changeme-changeme-changeme",
        "CHANGE_ME_to_a_long_random_string_please",
        "my-super-secret-key-for-the-company-gateway",
        "0123456789abcdef0123456789abcdef",
        "this is only an example secret, 32 bytes or more",
        "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbcccccccc",
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_and_not_repeated(tmp_path, weak):
    with pytest.raises(PepperRefused) as caught:
        load_pepper({VARIABLE: weak}, tmp_path)
    assert "secrets.token_urlsafe" in str(caught.value)
    assert weak not in str(caught.value)


def test_a_file_that_others_can_read_is_refused(tmp_path):
    load_pepper({}, tmp_path)
    (tmp_path / FILE_NAME).chmod(0o640)
    with pytest.raises(PepperRefused, match="chmod 600"):
        load_pepper({}, tmp_path)


@pytest.mark.parametrize("damaged", [b"", b"half a key"])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, damaged):
    path = tmp_path / FILE_NAME
    path.touch(0o600)
    path.write_bytes(damaged)
    with pytest.raises(PepperRefused, match="damaged"):
        load_pepper({}, tmp_path)
    assert path.read_bytes() == damaged


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / FILE_NAME).mkdir(0o700)
    with pytest.raises(PepperRefused, match="cannot be used"):
        load_pepper({}, tmp_path)


def test_a_pepper_prints_only_its_name():
    pepper = Pepper(b"secret")
    assert repr(pepper) == f"Pepper({pepper.version})"
    assert pepper.version not in pepper.key.hex()


def test_processes_that_start_at_once_agree_on_one_pepper(tmp_path):
    program = (
        "import sys; from pathlib import Path; from gateway.identity.pepper import load_pepper; sys.stdin.read(1);"
        f"print(load_pepper({{}}, Path({str(tmp_path / 'data')!r})).version)"
    )
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    versions = {process.communicate(b"x", timeout=60)[0] for process in processes}
    assert versions == {f"{load_pepper({}, tmp_path / 'data').version}\n".encode()}
    assert [found.name for found in (tmp_path / "data").iterdir()] == [FILE_NAME]


async def test_a_database_takes_the_first_pepper_and_refuses_another(tmp_path):
    database = await ready_database(tmp_path)
    for _ in range(2):
        async with database.write() as session:
            await confirm(session, Pepper(b"the first"))
    with pytest.raises(PepperRefused, match="not the one this database was filled with"):
        async with database.write() as session:
            await confirm(session, Pepper(b"another"))
    await database.close()
