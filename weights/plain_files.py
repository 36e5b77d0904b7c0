"""Files from elsewhere, read without trust: only regular ones, of a bounded size, and JSON without surprises.

A named pipe in place of a config would wait for ever and a device would never end, so what a path is comes before what
it holds. Torch-free, so that the command line can judge a folder at once.
"""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

MOST_JSON = 8 * 2**20
"""Bytes; the largest index of shards of a released video model has less than one MiB."""
DEEPEST = 32
"""Lists and objects inside each other; a config has three."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the file, what is wrong with it, and one thing to do."""


def shown(name: object, width: int = 100) -> str:
    """A name or value out of a file as it may stand in a sentence: one line, no control characters, not too long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name)[: 4 * width])
    return text if len(text) <= width else text[: width - 2] + " …"


def few(names: Iterable[object], show: int = 3) -> str:
    """The first names and how many more: `a, b, c and 12 more`."""
    listed = list(names)
    rest = len(listed) - show
    return ", ".join(shown(name) for name in listed[:show]) + (f" and {rest} more" if rest > 0 else "")


def must_be_a_file(path: Path, missing: str = "check the path or fetch the weights") -> int:
    """The size in bytes of a regular file.

    Args:
        path: the file; links are followed.
        missing: what to do where there is none.

    Raises:
        FileNotFoundError: nothing is there, or a link leads nowhere.
        CheckpointError: it is a folder, a pipe, a device or a socket.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        what = "is a link that leads nowhere" if path.is_symlink() else "is missing"
        raise FileNotFoundError(f"{path} {what}; {missing}.") from None
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {missing}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is {_sort(found.st_mode)} where a file belongs; {missing}.")
    return found.st_size


def must_hold_files(folder: Path) -> None:
    """Refuse a folder with pipes, devices or sockets in it, for readers of others that open what they find.

    Raises:
        CheckpointError: as said.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_dir():
            must_be_a_file(path, "take it out, or fetch the folder again")


def read_json(path: Path, missing: str = "check the path or fetch it again") -> Any:
    """The value in a JSON file: strictly JSON, in UTF-8, without NaN, equal keys or numbers past the range of floats.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is no file, too large, or not such JSON.
    """
    size = must_be_a_file(path, missing)
    if size > MOST_JSON:
        raise CheckpointError(f"{path} has {size} bytes, too many for its kind; fetch it again.")
    with path.open("rb") as file:
        data = file.read(MOST_JSON + 1)
    try:
        return parse_json(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({shown(error)}); fetch it again.") from error


def parse_json(data: bytes) -> Any:
    """What `read_json` reads, from bytes; ValueError says what is wrong, without a full stop."""
    if data[:3] == b"\xef\xbb\xbf" or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("it begins with a byte-order mark, save it as UTF-8 without one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from error
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _must_be_flat(value)
    return value


def _must_be_flat(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError("it is nested too deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it sets {shown(twice, 40)!r} twice")
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{shown(word, 20)} is past the range of numbers")
    return number


def _integer(word: str) -> int:
    if len(word) > 19:
        raise ValueError(f"{shown(word, 20)} is past the range of numbers")
    return int(word)


def _sort(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
