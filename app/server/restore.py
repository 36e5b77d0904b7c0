"""A film that somebody dropped on the page, or a live take, as the body of POST /v1/videos that makes it again.

Whoever sends a file may be anybody: it is looked at in memory, nothing of it is a path, and what comes of it has passed
everything that a render is refused by.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from app.config.nodes import LARGEST_FILE
from app.config.readers import choose
from app.config.settings import given_by_flags, resolve
from app.errors import UsageMistake, shorten
from app.jobs.job import SETTINGS, VideoRequest, place
from app.loading.model import rhythm_of
from app.media.boxes import looks_like_mp4, read_tags
from app.record.provenance import Provenance, provenance_of, provenance_of_log
from app.record.session_log import parse_log
from app.record.sidecar import read_carried, read_sidecar
from app.script.shot_list import export_native
from pipelines.types import Transition

LARGEST_UPLOAD = 16 * 2**20
"""Bytes: the index of hours of film, or the log of as many."""
_FIELDS = ("preset", "model", "size", "seed")


def read_dropped(data: bytes) -> Provenance:
    """What a film, a film's .json or a session.jsonl was made with, told apart by their content.

    Raises:
        UsageMistake: it is none of them, or damaged.
    """
    if looks_like_mp4(data):
        told = read_tags(data).get("rivulet")
        if told is None:
            raise UsageMistake("This film carries no settings of Rivulet. Give one that Rivulet made.")
        return provenance_of(read_carried(told, "this film"), "this film")
    if not data.lstrip(b" \t\r\n").startswith(b"{"):
        raise UsageMistake("This is neither a film nor a log of Rivulet. Give an .mp4, its .json, or a session.jsonl.")
    if data.startswith(b'{"event":'):
        return provenance_of_log(parse_log(data, "this log"), "this log")
    return provenance_of(read_sidecar(data, "this file"), "this file")


def request_again(origin: Provenance, asked: VideoRequest, *, models: Sequence[str]) -> VideoRequest:
    """A render of the same script under what `asked` says; what it leaves open stays as it was.

    Raises:
        UsageMistake: settings that do not go together.
    """
    if asked.prompt is not None or asked.script is not None:
        raise UsageMistake("A take brings its own script. Leave out prompt and script.")
    given = {name: value for name in _FIELDS if (value := getattr(asked, name)) is not None}
    for name in asked.settings:
        choose(name, SETTINGS, "setting")
    kept = origin.kept({*given, *asked.settings})
    if kept.get("model") not in models:
        kept.pop("model", None)
    flags = kept | given | asked.settings
    if "model" in flags:
        choose(str(flags["model"]), models, "model")  # before anything looks for a folder of that name
    resolved = resolve([given_by_flags({name: value for name, value in flags.items() if name != "seed"})])
    fps = origin.fps if resolved.settings.fps is None else float(Fraction(resolved.settings.fps))
    usual = resolve([given_by_flags({name: flags[name] for name in ("preset", "model") if name in flags})])
    if flags.get("fps") == usual.settings.fps:
        del flags["fps"]
    return asked.model_copy(
        update={
            "script": export_native(origin.script_for(rhythm_of(resolved.preset), fps)),
            "script_kind": "yaml",
            "settings": {name: value for name, value in flags.items() if name not in _FIELDS},
            **{name: flags.get(name) for name in _FIELDS},
        }
    )


def restored(origin: Provenance, *, models: Sequence[str]) -> dict[str, Any]:
    """What a client is told of it: a request that can be sent as it is, and its shots.

    Raises:
        UsageMistake: it could not be rendered here.
    """
    request = request_again(origin, VideoRequest.model_validate({}), models=models)
    if len((request.script or "").encode()) > LARGEST_FILE:
        raise UsageMistake(f"Its script is longer than {LARGEST_FILE} bytes. Render it with rivulet replay.")
    _, _, timeline = place(request, models=models)
    notes = list(origin.notes)
    if request.model is None:
        notes.append(f"This server has no model {shorten(str(origin.settings['model']), 40)!r}; choose another.")
    return {
        "object": "film.restored",
        "kind": origin.kind,
        "seconds": round(timeline.frames / timeline.fps, 6),
        "fps": timeline.fps,
        "frames": timeline.frames,
        "request": request.model_dump(mode="json", include={*_FIELDS, "script", "script_kind", "settings"}),
        "shots": [
            {"at": shot.actual.second, "prompt": shot.prompt, "transition": _told(shot.transition)}
            for shot in timeline.shots
        ],
        "notes": notes,
    }


def _told(transition: Transition) -> dict[str, Any]:
    return {"kind": transition.kind, "chunks": transition.chunks}
