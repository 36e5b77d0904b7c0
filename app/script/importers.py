"""Any file with prompts into scripts: our shot list, and what other communities write.

The kind is told from the file's ending and content, never asked for: prompts as text, timed lists, tables, subtitles,
LongLive's and MemFlow's jsonl, FramePack-Studio's timed sections, Deforum's and AnimateDiff's prompts by frame,
Daydream Scope's timelines. Each reader is a file of its own; this one chooses, for the command line, jobs, the page and
Python alike.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from app.config.json_tree import parse_json
from app.config.lengths import Length
from app.config.nodes import Node, clean_text, one_line, read_text
from app.config.table import READERS
from app.config.toml_tree import parse_toml
from app.config.yaml_tree import parse_yaml
from app.errors import UsageMistake
from app.script.cues import cues_script, looks_like_cues
from app.script.deforum import deforum_script, holds_prompt_map
from app.script.foreign_words import NEGATIVE_NOTE, refuse_foreign_words, without_negative
from app.script.framepack import looks_timed, parse_framepack
from app.script.pictures import beside_script
from app.script.plain_text import Line, lines_of, paragraphs
from app.script.scope import scope_script
from app.script.script import MAX_SHOTS, Script, ScriptShot, check_script
from app.script.shot_list import native_script
from app.script.tables import looks_like_a_table, record_scripts, table_scripts
from app.script.timed_lines import prompt_map, refuse_unread_times, timed_lines

MAX_VIDEOS = 10_000
_KINDS = (
    "Use a shot list (.yaml), prompts or a timed list (.txt), a table (.csv), subtitles (.srt, .vtt), LongLive .jsonl, "
    "Deforum prompts or a Scope timeline (.json)."
)
_TEXT = ("txt", "text", "prompt", "prompts", "md", "markdown")
_ENDING = re.compile(r"[^/\\]\.([A-Za-z]\w{0,9})\s*$", re.ASCII)
_SHOT_LIST = re.compile(r"^shots[ \t]*:[ \t]*$", re.MULTILINE)
_LOOSE_SHOT_LIST = re.compile(r"^(version|shots)[ \t]*:", re.MULTILINE)
_NO_JSON = re.compile(r"\s*\{(?:[^{}\":]*\}|\s*[\"']?-?\d[^\n:]*:\s*[^\s{\[\"'])")
"""A wildcard, or a timed list in braces."""

_Reader = Callable[[str, str, bool], list[Script]]


def load_script(
    path: Path, *, as_videos: bool = False, switch_frame_indices: Sequence[int] | None = None
) -> list[Script]:
    """Read the scripts of a file: one, or one a video where the file holds several.

    Args:
        path: of the file.
        as_videos: every line of a text file is a video of its own, not a shot (jsonl always is).
        switch_frame_indices: latent frames at which the second and later prompts of every video begin.

    Raises:
        UsageMistake: the file cannot be read or is none of the kinds; the place of what is wrong in it.
    """
    text, file = read_text(path), one_line(str(path))
    shown = file if len(file) <= 80 else f"…{file[-79:]}"  # the ending counts
    scripts = parse_script(text, shown, as_videos=as_videos, switch_frame_indices=switch_frame_indices)
    return [beside_script(script, path) for script in scripts]


def parse_script(
    text: str, file: str, *, as_videos: bool = False, switch_frame_indices: Sequence[int] | None = None
) -> list[Script]:
    """What load_script does with the text of a file; `file` is its name, whose ending counts.

    The names of pictures stay as they are written: a text lies in no folder.
    """
    text = clean_text(text, file)
    if not text.strip():
        raise UsageMistake(f"{file}: this file is empty. Write what the film should show.")
    scripts = _reader(text, file)(text, file, as_videos)
    if switch_frame_indices is None:
        return scripts
    return [switch_at(script, switch_frame_indices) for script in scripts]


def switch_at(script: Script, indices: Sequence[int]) -> Script:
    """Give the prompts of a script without times their places, as latent frames.

    Raises:
        UsageMistake: the script has times already, or another number of prompts, or indices out of order.
    """
    where = f"{script.place}: " if script.place else ""
    if any(shot.at is not None for shot in script.shots):
        raise UsageMistake(f"{where}the shots have times already. Leave out --switch_frame_indices.")
    if len(indices) != len(script.shots) - 1:
        raise UsageMistake(
            f"{where}{len(script.shots)} prompts need {len(script.shots) - 1} switch frame indices, "
            f"not {len(indices)}. Give one for every prompt but the first."
        )
    starts = [0, *indices]
    shots = tuple(replace(shot, at=Length(float(at), "l")) for shot, at in zip(script.shots, starts, strict=True))
    timed = replace(script, shots=shots)
    check_script(timed)
    return timed


def _reader(text: str, file: str) -> _Reader:
    ending = _ENDING.search(file)
    kind = ending[1].lower() if ending else ""
    if kind in _BY_ENDING:
        return _BY_ENDING[kind]
    if looks_like_cues(text):
        return _cues
    if looks_like_a_table(text):
        return _table
    begin = text.lstrip()[:1]
    if begin == "{" and prompt_map(text, file) is None and not _NO_JSON.match(text):
        first, _, more = text.strip().partition("\n")
        return _jsonl if more and first.rstrip().endswith("}") else _json
    if re.match(r"\s*\[\s*([\"{\[]|$)", text):
        return _json
    if _SHOT_LIST.search(text) if kind in _TEXT else _LOOSE_SHOT_LIST.search(text):
        return _yaml
    if kind not in (*_TEXT, ""):
        raise UsageMistake(f"{file}: no script ends in .{kind}. {_KINDS} A prompt a line is .txt.")
    return _txt


def _named(written_as: str, *scripts: Script) -> list[Script]:
    return [replace(script, written_as=written_as) for script in scripts]


def _txt(text: str, file: str, as_videos: bool) -> list[Script]:
    if (script := prompt_map(text, file)) is not None:
        return _named("prompt travel", script)
    lines = lines_of(text)
    if not lines:
        raise UsageMistake(f"{file}: there are only remarks in this file. Write what the film should show.")
    if (script := timed_lines(lines, file)) is not None:
        return _named("a timed list", script)
    if not looks_timed(text):
        refuse_unread_times(lines, file)
    if as_videos:
        _refuse_many(len(lines), file)
        return [
            parse_framepack(line.text, file, first_line=line.number)
            if looks_timed(line.text) and not line.exact
            else _shared([line], file, f", line {line.number}")
            for line in lines
        ]
    if looks_timed(text) and not any(line.exact for line in lines):
        rows = {line.number: line.text for line in lines}
        timed = "\n".join(rows.get(number + 1, "") for number in range(text.count("\n") + 1))
        return _named("FramePack's timed sections", parse_framepack(timed, file))
    if (joined := paragraphs(lines)) is not None:
        return _named("paragraphs, a shot each", _shared(joined, file, note=_told_joined(lines, joined)))
    return _named("prompts, one a line", _shared(lines, file))


def _told_joined(lines: Sequence[Line], joined: Sequence[Line]) -> str:
    """That lines became paragraphs, and how many of them each of the first shots was."""
    starts = [*(line.number for line in joined), lines[-1].number + 1]
    counts = [sum(start <= line.number < end for line in lines) for start, end in pairwise(starts)]
    told = [f"joined {count} lines into shot {shot}" for shot, count in enumerate(counts, 1) if count > 1]
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return f"Read as {len(joined)} paragraphs, a shot each: {', '.join(told[:4])}{more}."


def _shared(lines: Sequence[Line], file: str, at: str = "", note: str = "") -> Script:
    """Lines that share a film equally."""
    texts = [(line.text, f"{file}, line {line.number}", line.exact) for line in lines]
    return _equal_shares(texts, f"{file}{at}", [note] if note else [])


def _equal_shares(texts: Sequence[tuple[str, str, bool]], place: str, notes: list[str]) -> Script:
    """A script without times, of texts with their places; those that are not exact may hold other tools' words."""
    shots: list[ScriptShot] = []
    for text, where, exact in texts:
        if not exact:
            text, cut = without_negative(text)  # what is left of it
            refuse_foreign_words(text, where)
            if cut and NEGATIVE_NOTE not in notes:
                notes.append(NEGATIVE_NOTE)
        shots.append(ScriptShot(None, text, place=where))
    script = Script(tuple(shots), place=place, notes=tuple(notes))
    check_script(script)
    return script


def _yaml(text: str, file: str, as_videos: bool) -> list[Script]:
    return _tree(parse_yaml(text, file), as_videos)


def _toml(text: str, file: str, as_videos: bool) -> list[Script]:
    return _tree(parse_toml(text, file), as_videos)


def _tree(document: Node, as_videos: bool) -> list[Script]:
    """A shot list; or, as people write them in the same notations, a bare list of prompts or prompts by frame."""
    if document.kind == "list":
        return _list(document, as_videos)
    if document.kind == "mapping" and "shots" not in document.entries:
        if holds_prompt_map(document.entries):
            return _named("prompts by frame", deforum_script(document))
        if any(name in READERS for name in document.entries):
            raise UsageMistake(f"{document.file}: these are settings and no shots. Give this file with --config.")
    return _named("a shot list", native_script(document))


def _cues(text: str, file: str, as_videos: bool) -> list[Script]:
    return _named("subtitles", cues_script(text, file))


def _table(text: str, file: str, as_videos: bool) -> list[Script]:
    scripts = table_scripts(text, file, as_videos=as_videos)
    _refuse_many(len(scripts), file)
    return _named("a table", *scripts)


def _jsonl(text: str, file: str, as_videos: bool) -> list[Script]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    _refuse_many(len(lines), file)
    return _named(
        "LongLive's prompts", *(_longlive(parse_json(line, file, first_line=number)) for number, line in lines)
    )


def _longlive(document: Node) -> Script:
    """One line of LongLive's jsonl; switch_frame_indices, which it keeps in a config, may stand in the line."""
    entries = document.mapping((), "a line of prompts", ignore=True)
    if "prompts" not in entries:
        document.wrong('this line has no prompts. Write {"prompts": ["a text", "another"]}.')
    nodes = entries["prompts"].list_of("texts")
    if not 1 <= len(nodes) <= MAX_SHOTS:
        entries["prompts"].wrong(f"{len(nodes)} prompts are too few or too many. Give 1 to {MAX_SHOTS}.")
    others = [key for key in entries if key not in ("prompts", "switch_frame_indices")]
    script = Script(
        tuple(ScriptShot(None, node.text(), place=node.place) for node in nodes),
        place=f"{document.file}, line {document.line}",
        notes=tuple(f'"{one_line(key[:40])}" is not read.' for key in others[:8]),
    )
    check_script(script)
    if "switch_frame_indices" in entries:
        indices = [node.integer() for node in entries["switch_frame_indices"].list_of("latent frames")]
        return switch_at(script, indices)
    return script


def _json(text: str, file: str, as_videos: bool) -> list[Script]:
    if (script := prompt_map(text, file)) is not None:
        return _named("prompt travel", script)
    document = parse_json(text, file)
    if document.kind == "list":
        return _list(document, as_videos)
    root = document.mapping((), "a script", ignore=True)
    if "shots" in root or ("version" in root and not {"prompts", "timeline", "animation_prompts"} & root.keys()):
        return _named("a shot list", native_script(document))
    if "timeline" in root or root.get("format", document).written == "scope-workflow":
        return _named("a Scope timeline", scope_script(document))
    if holds_prompt_map(root):
        return _named("Deforum's prompts by frame", deforum_script(document))
    if _is_comfy(root):
        document.wrong(f"this is a ComfyUI workflow, which is not read. Copy the prompts out of it. {_KINDS}")
    if "prompts" not in root:
        document.wrong(f"this is no script that Rivulet knows: it has neither shots nor prompts. {_KINDS}")
    prompts = root["prompts"].list_of("prompts")
    if prompts and prompts[0].kind == "mapping":
        return _named("a Scope timeline", scope_script(document))
    return _named("LongLive's prompts", _longlive(document))


def _list(document: Node, as_videos: bool) -> list[Script]:
    """A bare list: of texts, of records with times, or of films."""
    items = document.items
    if not items:
        document.wrong('this list is empty. Write ["a text", "another"].')
    if all(item.kind in ("text", "plain") for item in items):
        texts = [(" ".join(item.text().split()), item.place, False) for item in items]
        if not as_videos:
            return _named("a list of prompts", _equal_shares(texts, document.file, []))
        _refuse_many(len(texts), document.file)
        return [_equal_shares([text], text[1], []) for text in texts]
    if any(item.kind != "mapping" for item in items):
        document.wrong('a list holds either texts or records. Write ["a text"] or [{"start": 0, "prompt": "a text"}].')
    if all("prompts" in item.entries for item in items):
        _refuse_many(len(items), document.file)
        return [_longlive(item) for item in items]
    scripts = record_scripts(items, document.file, as_videos=as_videos)
    _refuse_many(len(scripts), document.file)
    return _named("a list of shots", *scripts)


def _is_comfy(root: Mapping[str, Node]) -> bool:
    """Whether a document is a graph of ComfyUI, as it is saved or as its API takes it."""
    return {"nodes", "links"} <= root.keys() or any("class_type" in node.entries for node in root.values())


def _refuse_many(videos: int, file: str) -> None:
    if videos > MAX_VIDEOS:
        raise UsageMistake(f"{file}: {videos} videos are too many for one file. Give at most {MAX_VIDEOS}.")


_BY_ENDING: Mapping[str, _Reader] = {
    **dict.fromkeys(("yaml", "yml"), _yaml),
    "toml": _toml,
    "json": _json,
    **dict.fromkeys(("jsonl", "ndjson"), _jsonl),
    **dict.fromkeys(("csv", "tsv"), _table),
    **dict.fromkeys(("srt", "vtt"), _cues),
}
