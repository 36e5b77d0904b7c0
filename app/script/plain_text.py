"""A text file of prompts: a line a shot, `#` lines as remarks, paragraphs where it is plainly wrapped prose."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

_REMARK = re.compile(r"#|//")
_RULE = re.compile(r"[-=_*~]{3,}")
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201c\u201d]+)\u201d')
_SENTENCE = re.compile(r"[.!?\u2026\u3002][\"'\u201d\u2019)]*$")
_MARK = re.compile(
    r"(?:[-*+\u2022]|(?:(?:shot|scene|clip|part|prompt|segment)\s*#?(\d{1,5})\s*[:.)-])|(\d{1,5})[.)]|prompt\s*:)\s+(?=\S)",
    re.ASCII | re.IGNORECASE,
)
_NARROWEST = 40
"""Letters in a full line of wrapped prose, at least; shorter lines are prompts."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line with words, without its indent; `exact` means it stood in quotes and holds nothing but words.

    `fresh` tells that a blank line, or nothing, stands above it.
    """

    number: int
    text: str
    exact: bool = False
    fresh: bool = False


def lines_of(text: str) -> list[Line]:
    """The lines of a text that hold prompts: no remarks (`#`, `//`), rules (`---`) or marks (`-`, `1.`, `Shot 1:`)."""
    lines: list[Line] = []
    fresh = True
    for number, written in enumerate(text.split("\n"), 1):
        line = written.strip().lstrip("\ufeff").strip()
        if _REMARK.match(line):
            continue
        if not line or _RULE.fullmatch(line):
            fresh = True
            continue
        quoted = _QUOTED.fullmatch(line)
        lines.append(Line(number, (quoted[1] or quoted[2]) if quoted else line, quoted is not None, fresh))
        fresh = False
    return _without_marks(lines)


def paragraphs(lines: Sequence[Line]) -> list[Line] | None:
    """Each paragraph as one line, or None where the lines are prompts.

    Plainly paragraphs: a blank line stands somewhere; every paragraph ends as a sentence does; some line inside one
    ends within a sentence; and every line end inside a paragraph is one that a narrow page made, because the next
    word would not have fitted into the longest line.
    """
    ends = [bool(_SENTENCE.search(line.text)) for line in lines]
    last = [*(line.fresh for line in lines[1:]), True]
    if not all(end for end, is_last in zip(ends, last, strict=True) if is_last) or all(ends):
        return None
    inside = [(above, line) for above, line in pairwise(lines) if not line.fresh]
    width = max((len(line.text) for line in lines), default=0)
    wrapped = all(len(above.text) + 1 + len(line.text.split(maxsplit=1)[0]) > width for above, line in inside)
    blank = sum(line.fresh for line in lines) > 1
    if not inside or not blank or not wrapped or width < _NARROWEST or any(line.exact for line in lines):
        return None
    joined: list[Line] = []
    for line in lines:
        if line.fresh or not joined:
            joined.append(line)
        else:
            joined[-1] = replace(joined[-1], text=f"{joined[-1].text} {line.text}")
    return joined


def _without_marks(lines: list[Line]) -> list[Line]:
    """The lines without bullets or numbers, where every one of them has the next one."""
    marks = [_MARK.match(line.text) for line in lines]
    for number, (line, mark) in enumerate(zip(lines, marks, strict=True), 1):
        said = None if mark is None else mark[1] or mark[2]
        if line.exact or mark is None or (said is not None and int(said) != number):
            return lines
    return [replace(line, text=line.text[mark.end() :]) for line, mark in zip(lines, marks, strict=True) if mark]
