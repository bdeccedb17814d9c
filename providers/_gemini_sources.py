"""Where an answer has its words from: `groundingMetadata` and `citationMetadata` as annotations.

Gemini counts bytes of UTF-8, annotations count characters, so the text is needed to tell where a citation stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MOST_TEXT = 256 * 2**10
_MOST_ANNOTATIONS = 1_000


class Passage:
    """The text of one choice as far as it has come, 256 KiB at most: citations beyond stand at its end."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, text: str) -> None:
        if self._size < _MOST_TEXT:
            piece = text.encode("utf-8", "replace")
            self._pieces.append(piece)
            self._size += len(piece)

    def annotations(self, candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The citations that a candidate brings."""
        found = [*_grounded(candidate.get("groundingMetadata")), *_cited(candidate.get("citationMetadata"))]
        if not found:
            return []
        text = b"".join(self._pieces)
        self._pieces = [text]
        return [_annotation(text, *where) for where in found[:_MOST_ANNOTATIONS]]


def _annotation(text: bytes, start: int, end: int, url: str, title: str) -> dict[str, Any]:
    first = len(text[:start].decode("utf-8", "ignore"))
    last = first + len(text[start:end].decode("utf-8", "ignore"))
    return {
        "type": "url_citation",
        "url_citation": {"start_index": first, "end_index": last, "url": url, "title": title},
    }


def _grounded(metadata: object) -> Iterator[tuple[int, int, str, str]]:
    """What each segment rests on; where no segment says, the sources alone."""
    if not isinstance(metadata, Mapping):
        return
    sources = [_source(chunk) for chunk in _list(metadata.get("groundingChunks"))]
    supports = _list(metadata.get("groundingSupports"))
    for support in supports:
        segment = support.get("segment")
        if isinstance(segment, Mapping):
            start, end = _place(segment)
            numbers = support.get("groundingChunkIndices")
            for number in numbers if isinstance(numbers, list) else ():
                if isinstance(number, int) and 0 <= number < len(sources) and sources[number][0]:
                    yield start, end, *sources[number]
    if not supports:
        yield from ((0, 0, url, title) for url, title in sources if url)


def _source(chunk: Mapping[str, Any]) -> tuple[str, str]:
    for kind in ("web", "retrievedContext", "maps"):
        source = chunk.get(kind)
        if isinstance(source, Mapping):
            url, title = source.get("uri"), source.get("title")
            return (url if isinstance(url, str) else ""), (title if isinstance(title, str) else "")
    return "", ""


def _cited(metadata: object) -> Iterator[tuple[int, int, str, str]]:
    """AI Studio calls them `citationSources`, Vertex `citations`."""
    if not isinstance(metadata, Mapping):
        return
    for citation in _list(metadata.get("citationSources")) or _list(metadata.get("citations")):
        url, title = citation.get("uri"), citation.get("title")
        if isinstance(url, str) and url:
            yield *_place(citation), url, title if isinstance(title, str) else ""


def _place(segment: Mapping[str, Any]) -> tuple[int, int]:
    """Where a segment begins and ends, in bytes. Zeros are left out on the wire."""
    start, end = segment.get("startIndex", 0), segment.get("endIndex", 0)
    start = start if isinstance(start, int) and start > 0 else 0
    return start, end if isinstance(end, int) and end > start else start


def _list(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list. Others keep their place, since sources are told by their number."""
    return [item if isinstance(item, Mapping) else {} for item in value] if isinstance(value, list) else []
