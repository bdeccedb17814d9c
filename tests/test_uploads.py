"""Forms as they arrive: whatever the pieces, the same parts; whatever is wrong, a 400 and nothing held."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import uploads
from gateway.client import ClientGone
from gateway.core.errors import GatewayError
from gateway.core.form import Form

BOUNDARY = b"----a'b(c)+_,-./:=?d"
TYPE = b'multipart/form-data; boundary="' + BOUNDARY + b'"'


class FromPieces:
    """As much of a client as an upload asks for."""

    def __init__(self, pieces: Iterator[bytes], content_type: bytes | None = TYPE) -> None:
        self.scope = {"headers": [] if content_type is None else [(b"content-type", content_type)]}
        self._pieces = pieces

    async def pieces(self, most: int) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def field(name: str, value: bytes, extra: bytes = b"") -> bytes:
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n%b\r\n%b\r\n' % (
        BOUNDARY,
        name.encode(),
        extra,
        value,
    )


def file(content: bytes, filename: str = "a.mp3", name: str = "file") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: audio/mpeg\r\n'
    return b"--%b\r\n%b\r\n%b\r\n" % (BOUNDARY, head.encode(), content)


END = b"--%b--\r\n" % BOUNDARY
WHOLE = (
    file(b"\0\r\n--almost\r\n" + BOUNDARY + b"\xff" * 40)
    + field("model", b"ears")
    + field("timestamp_granularities[]", b"word")
    + field("timestamp_granularities[]", b"segment")
    + field("prompt", "Füße".encode(), b"Content-Type: text/plain; charset=utf-8\r\n")
    + field("stream", b"True")
    + END
)


async def received(*pieces: bytes, content_type: bytes | None = TYPE) -> Form:
    return await uploads.receive(FromPieces(iter(pieces), content_type), 10**9)  # type: ignore[arg-type]


async def refused(*pieces: bytes, content_type: bytes | None = TYPE) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await received(*pieces, content_type=content_type)
    assert caught.value.status == 400
    return caught.value


def rewritten(form: Form, model: str = "theirs") -> bytes:
    source = form.written(model)
    return source.read(0, len(source))


async def test_the_fields_are_members_and_the_file_is_described() -> None:
    form = await received(WHOLE)
    assert form.text("model") == "ears"
    assert form.text("prompt") == "Füße"
    assert form.flag("stream")
    assert form.value("timestamp_granularities[]") == ["word", "segment"]
    about = form.value("file")
    assert (about["filename"], about["content_type"], about["bytes"]) == (
        "a.mp3",
        "audio/mpeg",
        13 + len(BOUNDARY) + 40,
    )
    form.close()


async def test_the_parts_are_written_as_they_came_but_for_the_models_name() -> None:
    form = await received(WHOLE)
    assert form.content_type == b"multipart/form-data; boundary=" + BOUNDARY
    plain = WHOLE.replace(b"Content-Type: text/plain; charset=utf-8\r\n", b"")
    assert rewritten(form) == plain.replace(b"\r\n\r\nears\r\n", b"\r\n\r\ntheirs\r\n")
    form.close()


@pytest.mark.parametrize("size", [1, 2, 7, 64])
async def test_pieces_of_any_size_make_the_same_form(size: int) -> None:
    form = await received(*[WHOLE[at : at + size] for at in range(0, len(WHOLE), size)])
    whole = await received(WHOLE)
    assert (form.raw, rewritten(form)) == (whole.raw, rewritten(whole))
    form.close()
    whole.close()


@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 50))
async def test_a_file_of_any_bytes_comes_out_as_it_went_in(content: bytes, size: int, read: int) -> None:
    sent = file(content) + field("model", b"ears") + END
    form = await received(*[sent[at : at + size] for at in range(0, len(sent), size)])
    source = form.written("ears")
    assert b"".join(source.read(at, read) for at in range(0, len(source), read)) == sent
    assert len(source) == len(sent)
    form.close()


async def test_a_large_file_is_not_held_in_memory_and_can_be_read_again() -> None:
    piece = bytes(range(256)) * 256
    count = 512  # 32 MiB

    def sent() -> Iterator[bytes]:
        yield file(b"")[:-2]
        for _ in range(count):
            yield piece
        yield b"\r\n" + field("model", b"ears") + END

    tracemalloc.start()
    try:
        form = await uploads.receive(FromPieces(sent()), 10**9)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    source = form.written("ears")
    start = len(file(b"")) - 2
    for _ in range(2):
        assert source.read(start, len(piece)) == piece
        assert source.read(start + (count - 1) * len(piece), len(piece)) == piece
    form.close()


async def test_equal_files_have_equal_digests_and_others_have_others() -> None:
    one, same, other = [await received(file(each) + END) for each in (b"abc", b"abc", b"abd")]
    assert one.raw == same.raw != other.raw
    for form in (one, same, other):
        form.close()


NO_FORM: dict[str, bytes] = {
    "nothing": b"",
    "no boundary at all": b'{"model": "ears"}',
    "another boundary": WHOLE.replace(BOUNDARY, b"other"),
    "no end": WHOLE.removesuffix(END),
    "cut in the file": WHOLE[:150],
    "cut in a head": WHOLE[:60],
    "ten thousand parts": field("a", b"1") * 10_000 + END,
    "a head without an end": b"--%b\r\n" % BOUNDARY + b"X" * 20_000_000,
    "a value of a head without an end": b"--%b\r\nX: " % BOUNDARY + b"y" * 20_000_000,
    "many lines in a head": b"--%b\r\n" % BOUNDARY + b"X: y\r\n" * 1_000 + b"\r\n",
    "two models": field("model", b"cheap") + field("model", b"dear") + END,
    "two answers to one question": field("stream", b"true") + field("stream", b"false") + END,
    "two files": file(b"1") + file(b"2") + END,
    "a file by another name": file(b"1", name="model") + END,
    "a file without a file name": field("file", b"abc") + END,
    "no name": b"--%b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" % BOUNDARY + END,
    "no disposition": b"--%b\r\nContent-Type: text/plain\r\n\r\nx\r\n" % BOUNDARY + END,
    "two names": b'--%b\r\nContent-Disposition: form-data; name="a"; name="model"\r\n\r\nx\r\n' % BOUNDARY + END,
    "a name in two ways": b"--%b\r\nContent-Disposition: form-data; name=\"a\"; name*=UTF-8''model\r\n\r\nx\r\n"
    % BOUNDARY
    + END,
    "two dispositions": b'--%b\r\nContent-Disposition: form-data; name="a"\r\n'
    b'Content-Disposition: form-data; name="model"\r\n\r\nx\r\n' % BOUNDARY + END,
    "a line end inside a line": file(b"1").replace(b"audio/mpeg", b'a\nContent-Disposition: form-data; name="model"')
    + END,
    "a NUL in a file's name": file(b"1").replace(b"a.mp3", b"a\0.mp3") + END,
    "a name that breaks its line": field('a\\"b', b"x") + END,
    "an attachment": b'--%b\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n' % BOUNDARY + END,
    "endless text": field("prompt", b"x" * 2_000_000) + END,
}


@pytest.mark.parametrize("sent", NO_FORM.values(), ids=NO_FORM)
async def test_what_is_no_form_or_can_be_read_in_two_ways_is_a_400(sent: bytes) -> None:
    tracemalloc.start()
    try:
        whole = [sent[at : at + 65_536] for at in range(0, len(sent), 65_536)]
        before = tracemalloc.get_traced_memory()[0]
        error = await refused(*whole)
        assert tracemalloc.get_traced_memory()[1] - before < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert error.message.endswith(".")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b'multipart/form-data; boundary="a\rb"',
        b'multipart/form-data; boundary="a;b"',
        b"multipart/mixed; boundary=x",
        b"\xff" * 100,
    ],
)
async def test_a_content_type_that_tells_no_boundary_is_a_400(content_type: bytes | None) -> None:
    error = await refused(WHOLE, content_type=content_type)
    assert "multipart/form-data" in error.message


async def test_a_client_that_leaves_and_a_disk_that_is_full_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leaving() -> Iterator[bytes]:
        yield file(b"x" * uploads.IN_MEMORY * 2)[:-2]
        raise ClientGone

    with pytest.raises(ClientGone):
        await uploads.receive(FromPieces(leaving()), 10**9)  # type: ignore[arg-type]

    monkeypatch.setenv("TMPDIR", "/dev/full/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/dev/full/nowhere")
    with pytest.raises(GatewayError) as caught:
        await received(file(b"x" * uploads.IN_MEMORY * 2) + END)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("filename", ["name=x.mp3", "Füße (1); name=y.m4a", 'a \\"b\\".wav', ""])
async def test_a_file_may_have_any_name(filename: str) -> None:
    sent = file(b"1", filename) + field("model", b"theirs") + END
    form = await received(sent)
    assert rewritten(form) == sent
    form.close()


async def test_a_form_that_names_no_model_is_sent_with_one() -> None:
    form = await received(file(b"1") + END)
    assert rewritten(form) == field("model", b"theirs").replace(b"Content-Disp", b"content-disp") + file(b"1") + END
    form.close()


async def test_a_field_that_is_no_flag_stays_a_text() -> None:
    form = await received(file(b"1") + field("stream", b"perhaps") + END)
    with pytest.raises(GatewayError, match="'stream' must be true or false"):
        form.flag("stream")
    form.close()


async def test_fields_can_be_replaced_and_the_file_stays() -> None:
    form = await received(WHOLE)
    changed = form.changed({"prompt": "[NAME_1]", "file": "ignored", "none": "ignored"})
    assert changed.text("prompt") == "[NAME_1]"
    assert changed.value("file") == form.value("file")
    assert rewritten(changed) == rewritten(form).replace("Füße".encode(), b"[NAME_1]")
    form.close()


pieces_of_forms = st.sampled_from(
    [
        b"--" + BOUNDARY,
        b"--" + BOUNDARY + b"--",
        b"\r\n",
        b"\n",
        b"\r",
        b"--",
        b"Content-Disposition: form-data",
        b'; name="model"',
        b'; name="file"; filename="x"',
        b"; filename*=UTF-8''%ff",
        b"Content-Type: ",
        b": ",
        b"\0\xff",
        b"ears",
    ]
)


@given(st.lists(pieces_of_forms | st.binary(max_size=8), max_size=30), st.integers(1, 9))
async def test_anything_at_all_is_a_form_or_a_400(parts: list[bytes], size: int) -> None:
    sent = b"".join(parts)
    try:
        form = await received(*[sent[at : at + size] for at in range(0, len(sent), size)])
    except GatewayError as error:
        if error.status != 400:
            raise
    else:
        assert len(rewritten(form)) == len(form.written("theirs"))
        form.close()


@given(st.binary(max_size=200))
async def test_any_content_type_at_all_is_a_boundary_or_a_400(content_type: bytes) -> None:
    for value in (
        content_type,
        b"multipart/form-data; boundary=" + content_type,
        b"multipart/form-data;" + content_type,
    ):
        error = await refused(b"--", content_type=value)
        assert error.status == 400
