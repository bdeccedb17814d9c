import io
import struct
import wave

import pytest

from gateway.sound import HEAD_BYTES, wav_seconds


def a_wav(frames: int, *, rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(b"\0" * frames * width * channels)
    return file.getvalue()


def seconds(file: bytes) -> int | None:
    return wav_seconds(file[:HEAD_BYTES], len(file))


@pytest.mark.parametrize(
    ("file", "length"),
    [
        (a_wav(16_000), 1),
        (a_wav(16_001), 2),
        (a_wav(0), 0),
        (a_wav(3 * 44_100, rate=44_100, width=2, channels=2), 3),
        (a_wav(8_000 * 90, rate=8_000, width=1), 90),
    ],
)
def test_begun_seconds_count_whole(file: bytes, length: int) -> None:
    assert seconds(file) == length


def test_other_chunks_before_the_sound_are_passed_over() -> None:
    plain = a_wav(32_000)
    listed = plain[:36] + b"LIST" + struct.pack("<I", 5) + b"abcde\0" + plain[36:]
    assert seconds(listed) == 2


def test_a_length_that_is_stated_too_small_is_not_believed() -> None:
    plain = a_wav(64_000)
    lying = plain[:40] + struct.pack("<I", 2) + plain[44:]
    assert seconds(lying) == 4


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"RIFF",
        b"ID3" + b"\0" * 100,
        a_wav(100)[:40],
        a_wav(100).replace(b"fmt ", b"none"),
        a_wav(100)[:20] + b"\x11\0" + a_wav(100)[22:],  # compressed
        a_wav(100)[:28] + b"\xff\xff\xff\x7f" + a_wav(100)[32:],  # bytes per second that its samples do not come to
        a_wav(100)[:24] + b"\0\0\0\0\0\0\0\0" + a_wav(100)[32:],  # no samples a second
        b"RIFF" + b"\xff" * 5000,
    ],
)
def test_what_is_no_plain_wav_tells_nothing(file: bytes) -> None:
    assert seconds(file) is None
