"""A document as a tree whose every value knows its file, its line and its key, whatever notation it came in.

YAML and JSON say the same things in two ways; with one tree between them and their readers, a mistake in either is
told with its exact place, and the rules of a format are written once.
"""

import math
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

from app.errors import UsageMistake, printable, shorten, shorten_path

LARGEST_FILE = 1_000_000
"""Bytes. An hour-long script of a prompt a second holds about 700 kB; past this it is the wrong file."""
DEEPEST = 16
"""Levels of lists and mappings inside each other; no format here needs more than six."""
MOST_VALUES = 100_000
"""Values in one document; the longest script allowed needs about 60,000."""

Kind = Literal["text", "plain", "number", "bool", "null", "list", "mapping"]
_NAMES = {
    "text": "a text",
    "plain": "a text",
    "number": "a number",
    "bool": "true or false",
    "null": "empty",
    "list": "a list",
    "mapping": "a mapping",
}
_NOTHING: Mapping[str, "Node"] = {}  # shared: a node is made for every value of a file
_NUMBER = re.compile(r"[-+]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,4})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a document.

    `kind` "plain" is YAML's unquoted scalar, which may be read as text, number or true and false; `written` is a
    scalar as it stands in the file, escapes resolved. `key` is the way to it, as in `shots[2].at`.
    """

    kind: Kind
    file: str
    line: int
    key: str = ""
    written: str = ""
    items: tuple["Node", ...] = ()
    entries: Mapping[str, "Node"] = field(default_factory=lambda: _NOTHING)

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        where = f"{self.file}, line {self.line}"
        return f"{where}, {shorten(one_line(self.key[:200]), 60)}" if self.key else where

    def wrong(self, sentence: str) -> NoReturn:
        """Refuse this value.

        Raises:
            UsageMistake: always; the place, then `sentence`.
        """
        raise UsageMistake(f"{self.place}: {sentence}")

    def list_of(self, what: str) -> tuple["Node", ...]:
        """The items of a list; `what` says for the error what belongs into it."""
        if self.kind != "list":
            self.wrong(f"this is {self._name}, where a list of {what} belongs. Write it as [..., ...].")
        return self.items

    def mapping(self, keys: Collection[str], what: str, *, ignore: bool = False) -> Mapping[str, "Node"]:
        """The entries of a mapping that may hold `keys` only, unless what else there is is to be ignored."""
        if self.kind != "mapping":
            self.wrong(f"this is {self._name}, where {what} belongs. Write its keys, each with a colon.")
        for key, node in self.entries.items():
            if key not in keys and not ignore:
                hint = did_you_mean(key, keys)
                node.wrong(f"{what} has no key {quote(key)}{hint} Use {', '.join(keys)}.")
        return self.entries

    def text(self) -> str:
        """A text; an unquoted number or yes counts, as YAML people leave the quotes out."""
        if self.kind not in ("text", "plain"):
            self.wrong(f"this is {self._name}, where a text belongs. Write it in quotes.")
        return self.written

    def scalar(self, what: str) -> str:
        """A text or a number as written, for values such as times that are both."""
        if self.kind not in ("text", "plain", "number"):
            self.wrong(f"this is {self._name}, where {what} belongs. Write it on one line, for example 8s.")
        return self.written

    def number(self) -> float:
        """A finite number."""
        value = math.nan
        if self.kind in ("number", "plain") and _NUMBER.fullmatch(self.written):
            value = float(self.written)
        if not math.isfinite(value):
            said = quote(self.written) if self.written else self._name
            self.wrong(f"this is {said}, where a number belongs. Write digits, for example 0.5.")
        return value

    def integer(self) -> int:
        """A whole number."""
        value = self.number()
        if value != int(value) or abs(value) > 2**53:
            self.wrong(f"{quote(self.written)} is not a whole number. Write digits, for example 4.")
        return int(value)

    @property
    def _name(self) -> str:
        return _NAMES[self.kind]


def one_line(text: str) -> str:
    """A name of a file or a key as it may stand in a sentence: no control characters, no line ends."""
    return printable(text).replace("\n", "\\n")


def quote(text: str) -> str:
    """A text of a file inside an error: short, on one line, in quotes."""
    return f'"{shorten(printable(" ".join(text[:200].split())), 40)}"'


def did_you_mean(word: str, names: Collection[str]) -> str:
    """The end of a sentence about an unknown name: `; did you mean at?`, or a full stop if nothing is near."""
    near = get_close_matches(word[:40].lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "."


def read_text(path: Path) -> str:
    """The text of a file, line ends as \\n.

    Raises:
        UsageMistake: there is none, it is no ordinary file, larger than LARGEST_FILE, neither UTF-8 nor UTF-16, or
            holds NUL bytes.
    """
    shown = shorten_path(one_line(str(path)))
    if "\0" in str(path):
        raise UsageMistake(f"The name {shown} holds a NUL byte. Give an ordinary file name.")
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UsageMistake(f"{shown} is a folder. Give a file in it.")
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise UsageMistake(f"{shown} is not an ordinary file. Save the text to a file and give that.")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        near = _nearest(path)
        hint = f"; did you mean {shorten_path(one_line(near))}?" if near else "."
        raise UsageMistake(f"There is no file {shown}{hint} Check its name and folder.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is not one this system can open"
        raise UsageMistake(f"{shown} cannot be read ({reason}). Give another file.") from error
    if len(data) > LARGEST_FILE:
        raise UsageMistake(f"{shown} is larger than {LARGEST_FILE // 10**6} MB. Split it into several files.")
    return decode(data, shown)


def _nearest(path: Path) -> str | None:
    """The file beside one that is not there that is spelled most alike."""
    try:
        names = [other.name for other in islice(path.parent.iterdir(), 1000)]
    except (OSError, ValueError):
        return None
    near = get_close_matches(path.name.strip()[:80], names, n=1, cutoff=0.8)
    return str(path.with_name(near[0])) if near else None


def decode(data: bytes, file: str) -> str:
    """UTF-8 to text, or UTF-16 with its mark, line ends as \\n; `file` is for errors.

    Raises:
        UsageMistake: another encoding, or NUL bytes.
    """
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise UsageMistake(f"{file}, line 1: this is UTF-32 text. Save it again as UTF-8.")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-16 to its end" if wide else "UTF-8 text"
        if b"\0" in data and not wide:
            name = "plain text: it holds a NUL byte"
        raise UsageMistake(f"{file}, line {line}: this is not {name}. Save it again as UTF-8.") from error
    return clean_text(text, file)


def clean_text(text: str, file: str) -> str:
    """A text without marks of its encoding, line ends as \\n, wherever it came from.

    Raises:
        UsageMistake: it holds a NUL byte.
    """
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UsageMistake(f"{file}, line {line}: this holds a NUL byte. Save it as plain text in UTF-8.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")
