"""Lists that say "from then on this prompt": prompt travel, Deforum's and ComfyUI's schedules, clocks at line starts.

`30: a text` counts frames, as everywhere where such lists come from; `4s: a text`, `0:04 a text` and `[0:04] a text`
are times. Prompts may hold numbers and colons themselves, so a file counts as a timed list only where its lines agree;
where they do not, it is refused rather than guessed at.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from app.config.nodes import quote
from app.errors import UsageMistake
from app.script.framepack import looks_timed
from app.script.plain_text import Line
from app.script.script import MAX_SHOTS, Script
from app.script.spans import Span, read_moment, script_of_spans

FORMS = 'Times are read as 30: a text (frames), 4s: a text, 0:04 a text, [0:04] a text or "30": "a text",'
_CLOCK = r"\d{1,9}:\d\d(?!\d)(?::\d\d(?!\d))?(?:[:;]\d\d(?!\d)|[.,]\d{1,9})?"
_UNITS = (
    r"(?:\d{1,9}(?:\.\d{1,9})?\s?(?:hours?|hrs?|h|minutes?|mins?|m)\s?)?"
    r"\d{1,9}(?:\.\d{1,9})?\s?(?:hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|frames?|f|l|c)\b"
)
_COUNT = r"-?\d{1,30}(?:\.\d{1,9})?%?"
_ANY = rf"(?:-?{_CLOCK}|-?{_UNITS}|{_COUNT}|\(?-?[\w.]*max_f[\w\s+\-*/.()]*)"
_TO = r"\s*(?:-->|->|\u2192|-|\u2013|\u2014|\bto\b)\s*"
_AHEAD = r"(?:(?:from|at|frame|time|@)\s*[=#]?\s*|[tf]\s*=\s*)?"
_IN_BRACKETS = re.compile(
    rf"(?:\[\s*({_ANY})(?:{_TO}({_ANY}))?\s*\]|\(\s*({_ANY})(?:{_TO}({_ANY}))?\s*\))\s*(?:[:\uff1a=|\u2013\u2014-]\s*)?(.*)",
    re.IGNORECASE | re.ASCII,
)
_AT_START = re.compile(
    rf"{_AHEAD}([\"']?)({_ANY})(?:{_TO}({_ANY}))?\1(\s*(?:->|=>|-->|\u2192|[:\uff1a=|])\s*|\s+[-\u2013\u2014]\s+|\s+)(.*)",
    re.IGNORECASE | re.ASCII,
)
_DECADE = re.compile(r"(?:1[89]|20)?\d0s|[12]\d{3}", re.ASCII)
_INLINE = re.compile(r"(?<!\s)\s*[,;|]\s*(?=[\"']?\d{1,9}(?:s|f)?[\"']?\s*[:\uff1a]\s*[^\s\d])", re.ASCII)
_MAP = re.compile(
    r"[{(]?\s*([\"']?)(?:[-\d(][\d\s+\-*/.()%:smf]{0,99}|[^\n\"':{}]{0,99}max_f[^\n\"':{}]{0,99})\1\s*:\s*[\"']",
    re.ASCII,
)
_ENTRY = re.compile(
    r"\s*(\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'|[^\s\"':,{}][^\"':,{}\n]{0,200}?)\s*:\s*"
    r"(\"(?:[^\"\\]|\\.)*+\"|'(?:[^'\\]|\\.)*+')(\s*,?)",
    re.DOTALL,
)
_UNREAD = (
    re.compile(r"\W*(?:[a-z]{1,12}\W*)?(\d{1,9}(?::\d{1,9}){0,3}(?:[.,]\d{1,9})?)", re.ASCII | re.IGNORECASE),
    re.compile(r"\W*(?:[a-z]{1,12}\W*)?\d{1,9}\W+(\d{1,9}(?::\d{1,9}){1,3}(?:[.,]\d{1,9})?)", re.ASCII | re.IGNORECASE),
)
"""Where times stand in forms that are not read: `0) a text`, `k0: a text`, `Scene 1 (0:00): a text`."""
_HEAD = 40
"""Letters at the head of a line in which a time would stand."""
_CLOSING = re.compile(r"\s*([})]|$)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mark:
    """The time at the head of a line; `kind` is how plainly it is one: "sure", "maybe" (words could begin like
    that) or "bare" (a number and a space)."""

    start: str
    end: str | None
    kind: str
    text: str


def timed_lines(lines: Sequence[Line], file: str) -> Script | None:
    """Read a timed list, or return None where the lines are prompts.

    Raises:
        UsageMistake: lines of which some have a time, a time that cannot be read, and what script_of_spans refuses.
    """
    if not 0 < len(lines) <= MAX_SHOTS:
        return None
    parts = [(line, part) for line in lines for part in _parts(line)]
    marks = [None if line.exact else read_mark(part) for line, part in parts]
    if not 0 < len(marks) <= MAX_SHOTS or not _is_timed(marks):
        return None
    spans: list[Span] = []
    for (line, _), mark in zip(parts, marks, strict=True):
        place = f"{file}, line {line.number}"
        if mark is None:
            _fail(place, "this line has no time, and others have one")
        text = _unquoted(mark.text)
        again = read_mark(text)
        if looks_timed(text) or _INLINE.search(text) or (again is not None and again.kind == "sure"):
            _fail(place, "this line holds more than one time")
        spans.append(_span(mark, text, place))
    return _script(spans, file)


def prompt_map(text: str, file: str) -> Script | None:
    """Read `"0": "a text", "30": "another"`, with or without braces and quotes around the times; None if it is none.

    Raises:
        UsageMistake: it begins like one and cannot be read to its end, and what script_of_spans refuses.
    """
    at = len(text) - len(text.lstrip())
    if not _MAP.match(text, at):
        return None
    braced = text[at] in "{("
    at += braced
    spans: list[Span] = []
    line, counted = 1, 0
    while found := _ENTRY.match(text, at):
        line, counted = line + text.count("\n", counted, found.start(1)), found.start(1)
        key = found[1].strip("\"'")
        spans.append(_span(Mark(key, None, "sure", ""), unescaped(found[2][1:-1]), f"{file}, line {line}"))
        at = found.end()
        if len(spans) > MAX_SHOTS:
            raise UsageMistake(f"{file}: more than {MAX_SHOTS} shots are too many. Split the file.")
        if not ("," in found[3] or "\n" in found[3] or _CLOSING.match(text, at)):
            break
    rest = text[at:].strip()
    if rest.rstrip(", ") not in (("}", ")") if braced else ("",)):
        if not braced:
            return None  # lines may still be read one by one
        line += text.count("\n", counted, len(text) - len(text[at:].lstrip()))
        _fail(f"{file}, line {line}", "here the list of times and texts cannot be read")
    return _script(spans, file)


def unescaped(text: str) -> str:
    """A quoted text as it was meant, on one line."""

    def meant(found: re.Match[str]) -> str:
        code = found[1]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        return {"n": " ", "t": " ", "r": " ", "\n": " "}.get(code, code)

    written = _ESCAPE.sub(meant, text).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return " ".join(written.split())


def read_mark(line: str) -> Mark | None:
    """The time at the head of a line, if there is one."""
    if found := _IN_BRACKETS.fullmatch(line):
        start, end = found[1] or found[3], found[2] or found[4]
        return Mark(start, end, "maybe" if _is_count(start) or found[3] else "sure", found[5])
    found = _AT_START.fullmatch(line)
    if found is None:
        return None
    start, end, between, text = found[2], found[3], found[4], found[5]
    count = _is_count(start)
    if end is not None and _is_count(end) != count:  # "0:00 - 3 red balls" is no range
        end, text = None, f"{end}{between}{text}"
    if between.isspace() or (count and between.strip() in ("-", "\u2013", "\u2014")):
        kind = "bare" if count else "sure" if start.count(":") > 1 else "maybe"
    elif count and between == ":" and text[:1].isdigit():
        kind = "bare" if any(digit in start for digit in "123456789") else "sure"
    else:
        kind = "maybe" if _DECADE.fullmatch(start) else "sure"
    return Mark(start, end, kind, text)


def _is_count(moment: str) -> bool:
    return re.fullmatch(_COUNT, moment) is not None


def _is_timed(marks: Sequence[Mark | None]) -> bool:
    first, known = marks[0], [mark for mark in marks if mark is not None]
    every = len(known) == len(marks)
    if first is not None and "0" in first.start and not any(digit in first.start for digit in "123456789"):
        return first.kind != "bare" or (every and len(marks) > 1)
    if len(marks) == 1:
        return False
    plainly = any(mark.kind == "sure" for mark in known)
    differ = len({mark.start for mark in known}) > 1
    return plainly or (every and differ and all(mark.kind != "bare" for mark in known))


def refuse_unread_times(lines: Sequence[Line], file: str) -> None:
    """Refuse lines of which every one begins with a number and these rise from 0: times, in a form that is not read.

    Raises:
        UsageMistake: names the forms that are.
    """
    if len(lines) < 2 or any(line.exact for line in lines):
        return
    for form in _UNREAD:
        found = [form.match(line.text[:_HEAD]) for line in lines]
        times = [_seconds(match[1]) for match in found if match is not None]
        if len(times) == len(lines) and times[0] == 0 and all(before < after for before, after in pairwise(times)):
            _fail(
                f"{file}, line {lines[0].number}", "here numbers rise from 0 with the lines, in a form that is not read"
            )


def _seconds(number: str) -> float:
    parts = number.replace(",", ".").split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))


def _script(spans: Sequence[Span], file: str) -> Script:
    if spans and spans[0].start is not None and spans[0].start.amount:
        _fail(spans[0].place, f"this list begins at {spans[0].start}, and before it there is nothing. Begin it at 0")
    return script_of_spans(spans, file)


def _span(mark: Mark, text: str, place: str) -> Span:
    for moment in (mark.start, mark.end):
        if moment is not None and _is_count(moment) and "." in moment:
            _fail(place, f"{quote(moment)} is neither frames nor seconds. Write {moment}s for seconds")
    return Span(
        read_moment(mark.start, place, bare="f"),
        None if mark.end is None else read_moment(mark.end, place, bare="f"),
        text,
        place,
    )


def _parts(line: Line) -> list[str]:
    """A line, or the entries of one that holds several; none of one that is a brace."""
    if line.exact:
        return [line.text]
    text = line.text[1:].lstrip() if line.text[0] == "{" and "}" not in line.text[:-2] else line.text
    if text.rstrip(",").endswith("}") and "{" not in text:
        text = text.rstrip(",")[:-1].rstrip()
    if text.strip("(), ") == "":
        return []
    return [part for part in _INLINE.split(text) if part.strip()] if read_mark(text) else [text]


def _unquoted(text: str) -> str:
    text = text.rstrip(", ")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return unescaped(text[1:-1])
    return text


def _fail(place: str, wrong: str) -> NoReturn:
    raise UsageMistake(f"{place}: {wrong}. {FORMS} and a line whose number belongs to its words stands in quotes.")
