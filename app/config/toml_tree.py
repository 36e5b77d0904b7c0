"""TOML into nodes that know their lines.

The standard reader gives values without places, so the line of a key is found again in the text; where a key could
stand on several lines, none (0) is told rather than a wrong one.
"""

import re
import tomllib
from typing import Any, NoReturn, cast

from app.config.nodes import DEEPEST, MOST_VALUES, Node, quote
from app.errors import UsageMistake

_LARGEST = 100_000
"""Characters. The reader takes a time that grows with the square of some documents; settings need a hundredth."""
_DOTTED = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+)" + f"{{{DEEPEST}}}")
_TABLE = re.compile(r"\[{1,2}([^\[\]]*)\]{1,2}")
_NAME = re.compile(r"[\w.\"' -]+")
_INNER = re.compile(r"[{,]\s*([\w\"'-]+)\s*=")


def parse_toml(text: str, file: str) -> Node:
    """Read a TOML document.

    Raises:
        UsageMistake: not TOML, dates, too large, too deep or too many values.
    """
    if len(text) > _LARGEST:
        raise UsageMistake(f"{file} is larger than {_LARGEST // 1000} kB. Keep settings only.")
    if found := _DOTTED.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UsageMistake(f"{file}, line {line}: a name of more than {DEEPEST} parts. Make it flatter.")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else "it is nested too deep"
        problem, _, place = said.partition(" (at ")
        number = re.match(r"line (\d+)", place)
        line = int(number[1]) if number else text.count("\n") + 1
        raise UsageMistake(
            f"{file}, line {line}: this is not TOML ({problem}). Write name = value, and texts in double quotes."
        ) from None
    return _Reader(file, _lines_of_keys(text)).node(document, "", 0)


class _Reader:
    """Turns tomllib's values into nodes."""

    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file = file
        self._lines = lines
        self._values = 0

    def node(self, value: object, key: str, depth: int) -> Node:
        """Build the node of a value; `key` is the way to it."""
        line = self._lines.get(key, 0)
        self._values += 1
        if self._values > MOST_VALUES or depth > DEEPEST:
            self._fail(line, "there is too much in this file. Keep settings only.")
        if isinstance(value, dict):
            entries = {
                name: self.node(entry, f"{key}.{name}" if key else name, depth + 1)
                for name, entry in cast("dict[str, Any]", value).items()
            }
            return Node("mapping", self._file, line, key, entries=entries)
        if isinstance(value, list):
            items = cast("list[Any]", value)
            nodes = tuple(self.node(item, f"{key}[{index}]", depth + 1) for index, item in enumerate(items))
            return Node("list", self._file, line, key, items=nodes)
        if isinstance(value, bool):
            return Node("bool", self._file, line, key, "true" if value else "false")
        if isinstance(value, str):
            return Node("text", self._file, line, key, value)
        if not isinstance(value, int | float):
            self._fail(line, f"{quote(str(value))} is a date or a time. Put it in double quotes.")
        if abs(value) > 10**40:
            self._fail(line, f"{quote(key)} is too large a number. Write a smaller one.")
        return Node("number", self._file, line, key, repr(value))

    def _fail(self, line: int, sentence: str) -> NoReturn:
        raise UsageMistake(f"{self._file}{f', line {line}' if line else ''}: {sentence}")


def _lines_of_keys(text: str) -> dict[str, int]:
    """The line of every key that stands on one line only."""
    found: dict[str, list[int]] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        head, equals, rest = line.partition("=")
        if header := _TABLE.match(line.strip()):
            table = _plain(header[1])
            found.setdefault(table, []).append(number)
        elif equals and _NAME.fullmatch(head.strip()):
            key = f"{table}.{_plain(head)}" if table else _plain(head)
            for name in (key, *(f"{key}.{_plain(inner)}" for inner in _INNER.findall(rest))):
                found.setdefault(name, []).append(number)
    return {key: lines[0] for key, lines in found.items() if len(lines) == 1}


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
