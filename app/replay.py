"""Render a film again from what it carries: its metadata, the .json beside it, or the log of a live film.

As it was, its chunks come out bit for bit; under another preset, model, size or setting the same script becomes another
film, and nothing is compared.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app import sidecar
from app.config import Layer, resolve
from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake, printable
from app.films import RunFlags, film_requests
from app.joining import read_metadata
from app.lengths import Length
from app.opening import open_stream, rhythm_of
from app.origin import LIVE, Origin, origin_of, origin_of_take
from app.recipe import RenderRequest, request_of
from app.render import StreamOpener, render
from app.take import read_take


def read_record(path: Path) -> sidecar.Carried:
    """What a film (.mp4) or a sidecar (.json) says of itself; a film's chunks come from the .json beside it.

    Raises:
        UsageMistake: it is not one of ours, or is from another version.
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".json":
        return sidecar.read(path)
    try:
        told = read_metadata(path).get("rivulet")
    except ValueError as error:
        raise UsageMistake(str(error)) from error
    if told is None:
        raise UsageMistake(
            f"{path} carries no settings of Rivulet. Give a film that rivulet render made, or its .json."
        )
    record = sidecar.read_carried(told, f"{path} (its metadata)")
    beside = sidecar.sidecar_path(path)
    try:
        known = sidecar.read(beside)
    except (OSError, UsageMistake):  # moved without it: the film's own hash is enough to compare
        return record
    return known if known.film.sha256 == record.film.sha256 else record


def replay(
    path: Path,
    output: Path,
    *,
    check: bool,
    overwrite: bool,
    console: Console,
    changes: Sequence[Layer] = (),
    opener: StreamOpener = open_stream,
) -> int:
    """Render again what `path` tells of, and return the exit code: 1 if it was to be the same film and is not.

    Args:
        path: a film or its .json.
        output: the new film.
        check: compare every chunk's hash with the recorded one, and say where the first difference is.
        overwrite: replace `output`.
        console: where to print.
        changes: settings that are to be others than they were, the strongest first.
        opener: loads the model.

    Raises:
        UsageMistake, ValueError, OSError, RenderFailure: as `app.render.render`.
    """
    if not path.exists():
        raise UsageMistake(f"There is no file {path}. Give a film that rivulet render made, or its .json.")
    live = path.suffix.lower() == ".jsonl"
    if changed := sorted({name for layer in changes for name in layer}):
        if check:
            raise UsageMistake(
                f"Another {changed[0]} makes other frames, so there is nothing to compare. Leave out --check or it."
            )
        origin = origin_of_take(read_take(path), str(path)) if live else origin_of(read_record(path), str(path))
        request = changed_request(origin, changes, output, overwrite=overwrite)
        told = f"A new film of the same script: under another {' and '.join(changed)} its frames are others."
        for sentence in (told, *origin.notes):
            console.print(printable(sentence), soft_wrap=True)
        return render(request, console=console, opener=opener)
    if live:
        from app.retake import retake

        return retake(path, output, check=check, overwrite=overwrite, console=console)
    record = read_record(path)
    if check and record.status == LIVE:
        raise UsageMistake(f"{path} has no hashes of its chunks. Give the session.jsonl of the live film to compare.")
    request = replace(_request(record, path, output), overwrite=overwrite)
    code = render(request, console=console, opener=opener)
    if code != EXIT_OK or not check:
        return code
    again = sidecar.read(sidecar.sidecar_path(output))
    if again.film.sha256 == record.film.sha256:
        console.print(f"The same film: sha256 {record.film.sha256} over {record.film.frames} frames.", soft_wrap=True)
        return EXIT_OK
    console.print(f"Not the same film. {_difference(record, again)}{_reasons(record, again)}", soft_wrap=True)
    return EXIT_FAILURE


def changed_request(origin: Origin, changes: Sequence[Layer], output: Path, *, overwrite: bool) -> RenderRequest:
    """Ask for a film of the same script under other settings.

    Args:
        origin: what the film was made with.
        changes: settings that are to be others, the strongest first.
        output: the new film.
        overwrite: replace `output`.

    Raises:
        UsageMistake: settings that do not go together, or a script that does not fit them.
    """
    names = {name for layer in changes for name in layer}
    resolved = resolve([*changes, origin.layer(names)])
    settings = resolved.settings.model_copy(update={"output": str(output)})
    fps = origin.fps if settings.fps is None else float(Fraction(settings.fps))
    script = origin.script_for(rhythm_of(resolved.preset), fps)
    (request,) = film_requests(replace(resolved, settings=settings), RunFlags(overwrite=overwrite), [script])
    return request


def _request(record: sidecar.Carried, path: Path, output: Path) -> RenderRequest:
    config = record.config.model_copy(update={"frames": record.film.frames})
    request = request_of(config, seed=record.seed, model=record.model.name, source=str(path), output=output)
    if record.film.frames == record.config.frames:
        return request
    # Of a film that ended early the shots that are in it, each at its own place: shares would be of another length.
    shots = [
        replace(shot, at=Length(place.requested.frame, "f"))
        for shot, place in zip(request.script.shots, record.shots, strict=True)
        if place.actual.frame < record.film.frames
    ]
    return replace(request, script=replace(request.script, shots=tuple(shots), end=None))


def _difference(record: sidecar.Carried, again: sidecar.Sidecar) -> str:
    before = record.chunks if isinstance(record, sidecar.Sidecar) else []
    for old, new in zip(before, again.chunks, strict=False):
        if old.sha256 != new.sha256:
            return f"The first chunk that differs is {old.index} (frame {old.frames[0]}). "
    return ""


def _reasons(record: sidecar.Carried, again: sidecar.Sidecar) -> str:
    changed = [
        f"{name} {old} then, {new} now"
        for name, old, new in (
            *((name, old, again.versions.get(name)) for name, old in record.versions.items()),
            ("CPU", record.machine.get("cpu"), again.machine.get("cpu")),
            ("model", record.model.sha256[:12], again.model.sha256[:12]),
        )
        if old != new
    ]
    if not changed:
        return "Machine, versions and model are the same, so this should not be: please report it."
    return f"What changed: {json.dumps(changed, ensure_ascii=False)[1:-1]}."
