"""JSON into nodes that know their lines.

The standard reader gives no places, keeps the last of two equal keys and takes NaN: a file with any of these has a
mistake in it that its author wants to hear of.
"""

import re
from json import JSONDecodeError, decoder
from typing import Any, NoReturn

from app.config.nodes import DEEPEST, MOST_VALUES, Kind, Node, quote
from app.errors import UsageMistake

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[-+\w.]+")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_WORDS: dict[str, Kind] = {"true": "bool", "false": "bool", "null": "null"}
_scan: Any = vars(decoder)["scanstring"]  # which no stub names: in C, and it knows every escape


def parse_json(text: str, file: str, *, first_line: int = 1) -> Node:
    """Read one JSON document.

    Args:
        text: of the document.
        file: name, for places.
        first_line: of the text in its file.

    Raises:
        UsageMistake: not JSON, or equal keys, NaN or infinity, too deep, too many values.
    """
    reader = _Reader(text, file, first_line)
    node = reader.value(0, "", 0)
    if reader.at != len(text):
        reader.fail("here something follows the end of the document. Keep one JSON value")
    return node


class _Reader:
    """A cursor over the text; values are read by calling down, no deeper than DEEPEST."""

    def __init__(self, text: str, file: str, first_line: int) -> None:
        self.text, self.file = text, file
        self.at = 0
        self.values = 0
        self._line, self._counted = first_line, 0

    @property
    def line(self) -> int:
        """The line of the cursor, counted on from the last time it was asked."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def fail(self, sentence: str) -> NoReturn:
        """Refuse what stands at the cursor."""
        raise UsageMistake(f"{self.file}, line {self.line}: {sentence}.")

    def value(self, start: int, key: str, depth: int) -> Node:
        """Read the value that begins at or after `start`, and the space behind it."""
        self.at = self._skip(start)
        self.values += 1
        if self.values > MOST_VALUES:
            self.fail(f"more than {MOST_VALUES} values are too many. Split the file")
        line, head = self.line, self.text[self.at : self.at + 1]
        if head in ("{", "["):
            if depth == DEEPEST:
                self.fail(f"lists and mappings are nested more than {DEEPEST} deep. Make it flatter")
            return self._mapping(line, key, depth) if head == "{" else self._list(line, key, depth)
        if head == '"':
            return Node("text", self.file, line, key, self._string())
        found = _WORD.match(self.text, self.at)
        word = found[0] if found else head
        kind = _WORDS.get(word) or ("number" if _NUMBER.fullmatch(word) else None)
        if found is None or kind is None:
            what = f"{quote(word)} is not a JSON value" if word else "the document ends too early"
            self.fail(f"{what}. Write text in double quotes, numbers in digits, and close every bracket")
        self.at = self._skip(found.end())
        return Node(kind, self.file, line, key, word)

    def _list(self, line: int, key: str, depth: int) -> Node:
        items: list[Node] = []
        self.at = self._skip(self.at + 1)
        while self.text[self.at : self.at + 1] != "]":
            if items:
                self._expect(",", "]")
            items.append(self.value(self.at, f"{key}[{len(items)}]", depth + 1))
        self.at = self._skip(self.at + 1)
        return Node("list", self.file, line, key, items=tuple(items))

    def _mapping(self, line: int, key: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        self.at = self._skip(self.at + 1)
        while self.text[self.at : self.at + 1] != "}":
            if entries:
                self._expect(",", "}")
            if self.text[self.at : self.at + 1] != '"':
                self.fail("here a key in double quotes is missing. Write it, or take the comma before it away")
            name = self._string()
            if name in entries:
                self.fail(f"the key {quote(name)} stands there twice. Keep one of them")
            self._expect(":", ":")
            entries[name] = self.value(self.at, f"{key}.{name}" if key else name, depth + 1)
        self.at = self._skip(self.at + 1)
        return Node("mapping", self.file, line, key, entries=entries)

    def _expect(self, mark: str, end: str) -> None:
        if self.text[self.at : self.at + 1] != mark:
            missing = f'"{mark}"' if mark == end else f'"{mark}" or "{end}"'
            self.fail(f"here a {missing} is missing. Write it")
        self.at = self._skip(self.at + 1)

    def _string(self) -> str:
        try:
            written, end = _scan(self.text, self.at + 1, True)
        except JSONDecodeError as error:
            self.at = min(error.pos, len(self.text))
            self.fail("this text has no closing quote or a wrong escape. Write \\n for a line end and \\\\ for \\")
        self.at = self._skip(end)
        return written

    def _skip(self, start: int) -> int:
        found = _SPACE.match(self.text, start)
        return found.end() if found else start
