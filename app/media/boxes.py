"""Boxes of an MP4: the texts that it carries, read from bytes that anybody may have sent.

Forty lines over the few boxes that hold them, and no decoder: what is dropped on the page is looked at in memory
alone, and FFmpeg's readers of a hundred formats never see it.
"""

from collections.abc import Iterator

from app.errors import UsageMistake

MAX_BOXES = 10_000
"""Of one level; ours have about ten."""
_TEXT = 1


def looks_like_mp4(data: bytes) -> bool:
    """Whether the bytes begin as an MP4 does."""
    return data[4:8] == b"ftyp"


def read_tags(data: bytes) -> dict[str, str]:
    """The texts in the index of an MP4, by their names; the picture may be cut off, the index may not.

    Raises:
        UsageMistake: it is no MP4, its index is not among these bytes, or is damaged.
    """
    if not looks_like_mp4(data):
        raise UsageMistake("This is no MP4. Give a film that Rivulet made, its .json, or a session.jsonl.")
    index = _find(memoryview(data), b"moov")
    if index is None:
        raise UsageMistake("The index of this film is not at its beginning. Give a film as Rivulet wrote it.")
    tags = _find(index, b"udta", b"meta")
    if tags is None or len(tags) < 4:
        return {}
    entries = dict(_boxes(tags[4:]))
    names = _names(entries.get(b"keys", memoryview(b"")))
    texts: dict[str, str] = {}
    for kind, body in _boxes(entries.get(b"ilst", memoryview(b""))):
        number = int.from_bytes(kind)
        value = _find(body, b"data")
        if value is not None and 1 <= number <= len(names) and int.from_bytes(value[:4]) == _TEXT:
            texts[names[number - 1]] = str(value[8:], "utf-8", "replace")
    return texts


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each box; a last one that is cut off is left out."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return
        length, head = int.from_bytes(data[at : at + 4]), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16]), 16
        elif length == 0:
            length = len(data) - at
        if length < head:
            break
        if at + length > len(data):
            return
        yield bytes(data[at + 4 : at + 8]), data[at + head : at + length]
        at += length
    raise UsageMistake("The index of this film is damaged. Give a whole copy of it.")


def _find(data: memoryview, *path: bytes) -> memoryview | None:
    """The content of the first box along a path."""
    for kind in path:
        found = next((body for name, body in _boxes(data) if name == kind), None)
        if found is None:
            return None
        data = found
    return data


def _names(keys: memoryview) -> list[str]:
    """The names that the entries refer to by number."""
    return [str(body, "utf-8", "replace") for kind, body in _boxes(keys[8:]) if kind == b"mdta"]
