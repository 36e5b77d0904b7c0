"""Export of a script to a file: our shot list, or what LongLive reads.

LongLive keeps prompts in a line of jsonl and their places in its config, one list for all lines. Ours carries the
places in the line too, where Rivulet finds them again and LongLive passes over them; what belongs into the config is
printed.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.atomic import write_text
from app.errors import UsageMistake
from app.loading.model import rhythm_of
from app.record.request import RenderRequest
from app.script.script import Script, ScriptPictures, check_script
from app.script.shot_list import export_native
from app.script.timeline import Timeline, resolve
from pipelines.types import prompt_text


def export(requests: Sequence[RenderRequest], path: Path, *, fps: float | None, overwrite: bool) -> str:
    """Write what would be filmed to a .yaml or .jsonl, without a model, and return what to tell the person.

    Args:
        requests: a film each; a shot list holds one.
        path: its ending says which of the two.
        fps: of the films, where a request says nothing; None if the model's card does not tell.
        overwrite: replace a file that is there.

    Raises:
        UsageMistake: another ending, a file that is there, a script that the format cannot carry.
        OSError: the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in (".yaml", ".yml", ".jsonl"):
        stem = path.with_suffix("").name or "shots"
        raise UsageMistake(f"{path} is no name for an exported script. Give {stem}.yaml, or {stem}.jsonl for LongLive.")
    if path.exists() and not overwrite:
        raise UsageMistake(f"{path} exists already. Add --overwrite to replace it, or give another file.")
    if not path.absolute().parent.is_dir():
        raise UsageMistake(f"There is no folder {path.parent}. Create it, or give another file.")
    for request in requests:
        check_script(request.script)
    if ending == ".jsonl":
        if begun := next((request.beginning for request in requests if request.beginning is not None), None):
            raise UsageMistake(
                f"LongLive's format cannot carry a beginning ({begun.kind}). Export the native shot list."
            )
        films = [_timeline(request, fps) for request in requests]
        lines = [export_longlive(film) for film in films]
        write_text(path, "".join(f"{line}\n" for line in lines))
        return f"{path}: {len(lines)} film{'s' * (len(lines) != 1)} for LongLive. {_for_its_config(films)}"
    if len(requests) != 1:
        raise UsageMistake(f"A shot list holds one film, not {len(requests)}. Give {path.with_suffix('.jsonl').name}.")
    write_text(path, export_native(_as_asked(requests[0])))
    return f"{path}: a shot list of {len(requests[0].script.shots)} shots."


def export_longlive(timeline: Timeline) -> str:
    """Write a film as a line of LongLive's jsonl, with its switch_frame_indices (latent frames).

    Raises:
        UsageMistake: weighted prompts, scheduled parameters or transitions other than re-cache, which that format
            has no words for.
    """
    prompts: list[str] = []
    for number, shot in enumerate(timeline.shots, 1):
        lost = None
        if not isinstance(shot.prompt, str):
            lost = f"the weights of its prompt ({prompt_text(shot.prompt)[:40]})"
        elif shot.parameters:
            lost = f"its {shot.parameters[0][0]}"
        elif number > 1 and shot.transition.kind != "recache":
            lost = f"its {shot.transition.kind} transition"
        if lost is not None or not isinstance(shot.prompt, str):
            raise UsageMistake(f"Shot {number}: LongLive's format cannot carry {lost}. Export the native shot list.")
        prompts.append(shot.prompt)
    return json.dumps({"prompts": prompts, "switch_frame_indices": _switches(timeline)}, ensure_ascii=False)


def _as_asked(request: RenderRequest) -> Script:
    """The script with the length and the beginning that the command gave it."""
    script, beginning = request.script, request.beginning
    if beginning is not None:
        script = replace(script, pictures=ScriptPictures(beginning.kind, str(Path(beginning.input).absolute())))
    return script if request.length is None else replace(script, end=request.length)


def _timeline(request: RenderRequest, fps: float | None) -> Timeline:
    rate = request.fps or fps
    if rate is None:
        raise UsageMistake("How many frames a second the model makes is not known here. Add --fps.")
    return resolve(request.script, length=request.length, fps=float(rate), rhythm=rhythm_of(request.engine.preset))


def _switches(timeline: Timeline) -> list[int]:
    return [shot.actual.latent for shot in timeline.shots[1:]]


def _for_its_config(films: Sequence[Timeline]) -> str:
    """What LongLive's config has to say, which says it once for all lines."""
    places = {(tuple(_switches(film)), film.rhythm.start(film.chunks)) for film in films}
    if len(places) > 1:
        return "Its config holds one list of switch_frame_indices: run the lines one by one, each with its own."
    ((switches, latents),) = places
    listed = f"switch_frame_indices: {', '.join(map(str, switches))} and " if switches else ""
    return f"Its config needs {listed}num_output_frames: {latents}."
