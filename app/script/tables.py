"""Tables of shots: CSV and TSV, with and without a heading, and lists of records in JSON.

A heading names the columns in any order. Without one the texts tell the column of prompts, and numbers before them
when each begins.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from app.config.lengths import Length
from app.config.nodes import Node, one_line, quote
from app.errors import UsageMistake
from app.script.pictures import KINDS, not_first, one_of_them
from app.script.script import MAX_SHOTS, Script, ScriptPictures
from app.script.spans import Span, read_moment, script_of_spans

_NAMES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("prompt", "prompts", "text", "caption", "description", "words", "cue"), ("prompt", "")),
    **dict.fromkeys(("start", "time", "at", "begin", "begins", "from", "timestamp", "in", "t"), ("start", "s")),
    **dict.fromkeys(("second", "seconds", "sec", "starttime", "timein", "timecode"), ("start", "s")),
    **dict.fromkeys(("frame", "frames", "keyframe", "startframe", "framestart", "fromframe"), ("start", "f")),
    **dict.fromkeys(("end", "stop", "to", "until", "out", "ends", "endtime", "timeout"), ("end", "")),
    **dict.fromkeys(("endframe", "frameend", "toframe"), ("end", "f")),
    **dict.fromkeys(("duration", "length", "dur", "hold"), ("duration", "")),
    **dict.fromkeys(("durationframes", "framecount", "numframes"), ("duration", "f")),
    **dict.fromkeys(("image", "imagepath"), ("image", "")),
    "extend": ("extend", ""),
    "reference": ("reference", ""),
}
_IGNORED = ("", "#", "no", "nr", "id", "index", "shot", "scene", "number", "notes", "note", "comment", "name", "title")
_KNOWN = "Use prompt, and start, frame, end, duration, image, extend or reference."
_WORDS = ("prompt", *KINDS)
"""Columns whose cells are no times."""
_UNITS = ("s", "sec", "secs", "seconds", "f", "frame", "frames")
_WHEN = re.compile(r"time|start|begin|end|frame|dur|sec|until|\bms\b|stamp", re.IGNORECASE)
_STARTS_TIMED = re.compile(r"-?\d[\d:.]*\w?\s*[,;|:]", re.ASCII)
_TIME = re.compile(
    r"-?\d(?:[\d:.,]*\d)?\s?(?:h|min|m|sec|s|frames?|f)?|-?\d[\d.,:hms]*[\dhms]", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    cells: tuple[str, ...]


def looks_like_a_table(text: str) -> bool:
    """Whether a text has a heading of columns, one of them for prompts and one for times, or tabs between all cells."""
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    cells = [line.strip().split("\t") for line in lines[: MAX_SHOTS + 1]]
    if cells and len(cells[0]) > 1 and all(len(row) == len(cells[0]) for row in cells):
        headed = "prompt" in [role[0] for role in map(_role, cells[0]) if role is not None]
        return headed or all(_TIME.fullmatch(row[0].strip()) for row in cells)
    head = lines[0] if lines else ""
    for mark in ";,|":
        roles = [_role(cell) for cell in head[:400].split(mark)]
        if len(roles) > 1 and None not in roles and {"prompt", "start"} <= {role[0] for role in roles if role}:
            return True
    return False


def table_scripts(text: str, file: str, *, as_videos: bool = False) -> list[Script]:
    """Read a table: one script, or with `as_videos` and without times one a row.

    Raises:
        UsageMistake: no column of prompts, columns that are not known or say the same, rows of other lengths, and
            what script_of_spans refuses.
    """
    rows = _rows(text, file)
    if not rows:
        raise UsageMistake(f"{file}: there is no row in this table. Write prompt as its heading, and below it prompts.")
    names = [_role(cell) for cell in rows[0].cells]
    headed = any(role is not None and role[0] == "prompt" for role in names)
    if headed:
        columns, notes = _headed(rows[0])
        width, rows = len(rows[0].cells), rows[1:]
        if not rows:
            raise UsageMistake(f"{file}: this table has a heading and no row. Write a prompt below it.")
    else:
        columns, notes = _unheaded(rows)
        width = len(rows[0].cells)
    for row in rows:
        _check_width(row, width)
    return _scripts(rows, columns, file, notes, as_videos)


def record_scripts(items: Sequence[Node], file: str, *, as_videos: bool = False) -> list[Script]:
    """Read a list of records as rows of a table: `[{"start": 0, "prompt": "a text"}, ...]`.

    Raises:
        UsageMistake: see table_scripts.
    """
    keys: list[str] = []
    for item in items:
        for key in item.mapping((), "a shot", ignore=True):
            if key not in keys:
                keys.append(key)
        if len(keys) > 50:
            item.wrong("these records have more than 50 different keys. Keep prompt, start and end.")
    columns, notes = _headed(_Row(items[0].place, tuple(keys)))
    rows: list[_Row] = []
    for item in items:
        cells = {key: node for key, node in item.entries.items() if keys.index(key) in columns and node.kind != "null"}
        texts = {
            key: node.text() if columns[keys.index(key)][0] in _WORDS else node.scalar("a time")
            for key, node in cells.items()
        }
        rows.append(_Row(item.place, tuple(texts.get(key, "") for key in keys)))
    return _scripts(rows, columns, file, notes, as_videos)


def _rows(text: str, file: str) -> list[_Row]:
    """The rows with words in them; a line that begins with # is a remark."""
    lines = text.split("\n")
    if lines and (said := re.fullmatch(r"sep=(.)", lines[0].strip(), re.IGNORECASE)):
        lines[0], mark = "", said[1]
    else:
        mark = _delimiter(lines, file)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True, skipinitialspace=True)
    rows: list[_Row] = []
    began = 1
    try:
        for cells in reader:
            place = f"{file}, line {began}"
            began = reader.line_num + 1
            if any(cell.strip() for cell in cells) and not re.match(r"\s*#.", cells[0]):
                rows.append(_Row(place, tuple(" ".join(cell.split()) for cell in cells)))
            if len(rows) > MAX_SHOTS + 1:
                raise UsageMistake(f"{file}: more than {MAX_SHOTS} rows are too many. Split the file.")
    except csv.Error as error:
        line = min(reader.line_num, len(lines))
        raise UsageMistake(
            f"{file}, line {began if began < line else line}: this row cannot be read. "
            "Put texts with commas in double quotes, and double the quotes inside them."
        ) from error
    return rows


def _delimiter(lines: Iterable[str], file: str) -> str:
    """What stands between the cells: what parts the first row, outside its quotes."""
    if file.lower().endswith(".tsv"):
        return "\t"
    first = next((line for line in lines if line.strip() and not re.match(r"\s*#.", line)), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t;|" if mark in bare), ",")


def _role(cell: str) -> tuple[str, str] | None:
    """What a column of that name holds and what its digits count, "" where other columns say it; None if unknown."""
    words = re.findall(r"[a-z]+|#", re.sub(r"([a-z])([A-Z])", r"\1 \2", cell[:100]).lower())
    said = "".join(words)
    if said in _NAMES or said in _IGNORED:
        return _NAMES.get(said, ("ignored", ""))
    role = _NAMES.get("".join(words[:-1]))
    if role is None or role[0] == "prompt" or words[-1] not in _UNITS:
        return None
    return role[0], words[-1][0]


def _headed(row: _Row) -> tuple[dict[int, tuple[str, str]], list[str]]:
    columns: dict[int, tuple[str, str]] = {}
    notes: list[str] = []
    for index, cell in enumerate(row.cells):
        role = _role(cell)
        if role is not None and role[0] != "ignored":
            if role[0] in [known for known, _ in columns.values()]:
                _fail(row.place, f"two columns say the {role[0]} of a shot, {quote(cell)} is the second. Keep one")
            columns[index] = role
        elif role is None and _WHEN.search(cell):
            _fail(row.place, f"the column {quote(cell)} looks like a time and is not known. {_KNOWN[:-1]}")
        elif role is None and len(notes) < 8:
            notes.append(f"The column {one_line(cell[:40])} is not read.")
    said = [role for role, _ in columns.values()]
    if "prompt" not in said:
        _fail(row.place, f"no column holds the prompts. {_KNOWN[:-1]}")
    unit = next((counts for role, counts in columns.values() if role == "start"), "s")
    columns = {index: (role, counts or unit) for index, (role, counts) in columns.items()}
    if "end" in said and "duration" in said:
        _fail(row.place, "end and duration say the same. Keep one of the columns")
    return columns, notes


def _unheaded(rows: Sequence[_Row]) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """Columns told from what stands in them."""
    first = rows[0]
    width = len(first.cells)
    for row in rows:
        _check_width(row, width)
    times = [index for index in range(width) if all(_TIME.fullmatch(row.cells[index].strip()) for row in rows)]
    texts = [index for index in range(width) if index not in times and any(row.cells[index].strip() for row in rows)]
    odd = width == 1 and any(_STARTS_TIMED.match(row.cells[0]) for row in rows)
    if len(texts) != 1 or len(times) > 2 or odd:
        _fail(first.place, f"without a heading it is not plain which column is which. {_KNOWN[:-1]} as heading")
    columns = {texts[0]: ("prompt", "")}
    if times:
        columns[times[0]] = ("start", "s")
    if len(times) == 2:
        columns[times[1]] = (_second_column(rows, *times), "s")
    notes = ["There is no heading: numbers are read as seconds."] if times else []
    return columns, notes


def _second_column(rows: Sequence[_Row], start: int, other: int) -> str:
    """Whether the second column of times holds ends or durations; refused where neither fits."""

    def seconds(column: int) -> list[float]:
        return [read_moment(row.cells[column], row.place, bare="s").amount for row in rows]

    starts, others = seconds(start), seconds(other)
    following = [*starts[1:], float("inf")]
    rows_of = list(zip(starts, others, following, strict=True))
    if all(begin < end <= after + 1e-3 for begin, end, after in rows_of):
        return "end"
    if not all(length > 0 and begin + length <= after + 1e-3 for begin, length, after in rows_of):
        _fail(rows[0].place, "the second column is neither ends nor durations. Write a heading: start,end,prompt")
    return "duration"


def _scripts(
    rows: Sequence[_Row],
    columns: dict[int, tuple[str, str]],
    file: str,
    notes: list[str],
    as_videos: bool,
) -> list[Script]:
    at = {role: (index, unit) for index, (role, unit) in columns.items()}
    spans: list[Span] = []
    now: Length | None = None
    for row in rows:
        moments = {
            role: read_moment(row.cells[index], row.place, bare=unit)
            for role, (index, unit) in at.items()
            if role not in _WORDS and row.cells[index].strip()
        }
        start, end = moments.get("start"), moments.get("end")
        if (length := moments.get("duration")) is not None:
            begin = start or now or Length(0, length.unit)
            if begin.unit != length.unit:
                _fail(row.place, f"{begin} and {length} are counted in two units. Use one of them")
            start = begin if start is not None or "start" not in at else None
            end = now = Length(round(begin.amount + length.amount, 6), length.unit)
        elif "duration" in at and "start" not in at:
            _fail(row.place, "this row has no duration, and the others have one. Give it one")
        spans.append(Span(start, end, row.cells[at["prompt"][0]], row.place))
    if as_videos and at.keys() <= {*_WORDS}:
        return [
            replace(script_of_spans([span], span.place, notes=notes), pictures=_pictures([row], at))
            for span, row in zip(spans, rows, strict=True)
        ]
    return [replace(script_of_spans(spans, file, notes=notes), pictures=_pictures(rows, at))]


def _pictures(rows: Sequence[_Row], at: Mapping[str, tuple[int, str]]) -> ScriptPictures | None:
    """What the film of these rows begins with, which its first row may say."""
    named: list[ScriptPictures] = []
    for index, row in enumerate(rows):
        for kind in KINDS:
            if kind in at and (file := row.cells[at[kind][0]].strip()):
                if index:
                    not_first(row.place, kind)
                named.append(ScriptPictures(kind, file, row.place))
    return one_of_them(named)


def _check_width(row: _Row, width: int) -> None:
    if len(row.cells) != width:
        _fail(row.place, f"{len(row.cells)} columns stand here and {width} above. Put texts with commas in quotes")


def _fail(place: str, wrong: str) -> NoReturn:
    raise UsageMistake(f"{place}: {wrong}.")
