"""Any file with prompts into scripts: our shot list, and what four other communities write.

The kind is told from the file's ending and content, never asked for: txt, LongLive's and MemFlow's jsonl,
FramePack-Studio's timed sections, Daydream Scope's timelines. Each reader is a file of its own; this one chooses.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from app.errors import UsageMistake
from app.framepack_prompt import looks_timed, parse_framepack
from app.json_tree import parse_json
from app.lengths import Length
from app.nodes import Node, one_line, read_text
from app.scope_timeline import scope_script
from app.script import MAX_SHOTS, Script, ScriptShot, check_script
from app.shot_list import native_script, parse_native

MAX_VIDEOS = 10_000
_KINDS = "Use a shot list (.yaml), prompts (.txt), LongLive .jsonl, or a Scope timeline (.json)."


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
    return parse_script(text, shown, as_videos=as_videos, switch_frame_indices=switch_frame_indices)


def parse_script(
    text: str, file: str, *, as_videos: bool = False, switch_frame_indices: Sequence[int] | None = None
) -> list[Script]:
    """What load_script does with the text of a file; `file` is its name, whose ending counts."""
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


def _reader(text: str, file: str) -> Callable[[str, str, bool], list[Script]]:
    ending = Path(file).suffix.lower()
    if ending in (".yaml", ".yml"):
        return lambda text, file, videos: [parse_native(text, file)]
    if ending in (".jsonl", ".ndjson"):
        return _jsonl
    if ending == ".json":
        return _json
    if text.lstrip().startswith("{"):
        return _json if re.match(r"\s*\{\s*\n", text) else _jsonl
    if ending not in (".txt", ".prompt") and re.search(r"^(version|shots)[ \t]*:", text, re.MULTILINE):
        return lambda text, file, videos: [parse_native(text, file)]
    return _txt


def _txt(text: str, file: str, as_videos: bool) -> list[Script]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    if as_videos:
        lines = [(number, line) for number, line in lines if line]
        _refuse_many(len(lines), file)
        return [
            parse_framepack(line, file, first_line=number)
            if looks_timed(line)
            else _shared([(number, line)], file, f", line {number}")
            for number, line in lines
        ]
    if looks_timed(text):
        return [parse_framepack(text, file)]
    return [_shared(_paragraphs(lines), file)]


def _paragraphs(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines as they are; where blank lines stand between them, each paragraph as one line."""
    shots: list[tuple[int, str]] = []
    fresh, blank = True, False
    for number, line in lines:
        if not line:
            fresh = True
        elif fresh:
            blank |= bool(shots)
            shots.append((number, line))
            fresh = False
        else:
            shots[-1] = (shots[-1][0], f"{shots[-1][1]} {line}")
    return shots if blank else [(number, line) for number, line in lines if line]


def _shared(prompts: list[tuple[int, str]], file: str, at: str = "") -> Script:
    shots = tuple(ScriptShot(None, text, place=f"{file}, line {number}") for number, text in prompts)
    script = Script(shots, place=f"{file}{at}")
    check_script(script)
    return script


def _jsonl(text: str, file: str, as_videos: bool) -> list[Script]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    _refuse_many(len(lines), file)
    return [_longlive(parse_json(line, file, first_line=number)) for number, line in lines]


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
    document = parse_json(text, file)
    root = document.mapping((), "a script", ignore=True)
    if "shots" in root or ("version" in root and "prompts" not in root and "timeline" not in root):
        return [native_script(document)]
    if "timeline" in root or root.get("format", document).written == "scope-workflow":
        return [scope_script(document)]
    if "prompts" not in root:
        document.wrong(f"this is no script that Rivulet knows: it has neither shots nor prompts. {_KINDS}")
    prompts = root["prompts"].list_of("prompts")
    if prompts and prompts[0].kind == "mapping":
        return [scope_script(document)]
    return [_longlive(document)]


def _refuse_many(videos: int, file: str) -> None:
    if videos > MAX_VIDEOS:
        raise UsageMistake(f"{file}: {videos} videos are too many for one file. Give at most {MAX_VIDEOS}.")
