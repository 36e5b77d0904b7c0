"""Replay of a film: rendered again from what it carries, its metadata, the .json beside it, or the log of a live film.

As it was, its chunks come out bit for bit; under another preset, model, size or setting the same script becomes another
film, and nothing is compared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from app.config.lengths import Length
from app.config.settings import Layer, resolve
from app.config.table import TABLE
from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake, printable, shorten, shorten_path
from app.loading.model import StreamOpener, open_stream, rhythm_of
from app.media.stills import sink_kind
from app.record import sidecar
from app.record.beginning import find_beginning
from app.record.provenance import LIVE, Provenance, provenance_of, provenance_of_log
from app.record.request import RenderRequest, model_of_record, parts_of_record, request_of
from app.record.session_log import Header as LogHeader
from app.record.session_log import read_log
from app.record.video import changed, find_input
from app.render.batch import RunFlags, film_requests
from app.render.checks import Finding, check_again, check_pictures, check_record
from app.render.film_record import Known, find_record
from app.render.render import render
from weights.catalog import MODELS

_LOCATIONS = (*(name for name, entry in TABLE.items() if entry.replay == "place"), "parallel")
"""Settings that say where weights are, or where work is done, and change no frame."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for beside the file: `changes` of settings, the strongest first; the `model` that may be
    loaded, and where weights are and work is done (`locations`); licences that were accepted; where the `video` lies
    that the film is made of; which `parts` of the model it names as the record does."""

    changes: Sequence[Layer] = ()
    model: str | None = None
    locations: Mapping[str, Any] = field(default_factory=dict[str, Any])
    accepted: tuple[str, ...] = ()
    video: str | None = None
    parts: frozenset[str] = frozenset()

    @property
    def models_dir(self) -> Path | None:
        """Where downloads lie; None: the Hugging Face cache."""
        return None if "models_dir" not in self.locations else Path(self.locations["models_dir"])


def read_record(path: Path) -> sidecar.Carried:
    """What a film, or the .json beside it, says of it; raises as `app.render.film_record.find_record`."""
    return find_record(path).record


def replay(
    path: Path,
    output: Path | None,
    *,
    check: bool,
    overwrite: bool,
    console: Console,
    changes: Sequence[Layer] = (),
    accept_licence: tuple[str, ...] = (),
    video: str | None = None,
    opener: StreamOpener = open_stream,
) -> int:
    """Render again what `path` tells of, and return the exit code: 1 if it was to be the same film and is not.

    Args:
        path: a film, its .json, or the session.jsonl of a live film.
        output: the new film; None names it after the old one.
        check: prove separately that the record is whole, that its settings make its chunks, and that the file shows
            them; say what was proven, what does not match, and what could not be checked.
        overwrite: replace `output`.
        console: where to print.
        changes: settings that are to be others than they were, the strongest first. A model that is named here and in
            the record alike is no change: it allows what a record alone may not ask for, a download or a folder.
        accept_licence: models, or weights, whose licence the person has accepted.
        video: where the video lies that the film was made of; None looks beside the film, and here.
        opener: loads the model.

    Raises:
        UsageMistake, ValueError, OSError, RenderFailure: as `app.render.render.render`.
    """
    if not path.exists() and "%" not in path.name:  # a pattern of pictures is no file
        raise UsageMistake(
            f"There is no file {printable(shorten_path(path))}. Give a film that rivulet render made, or its .json."
        )
    if path.suffix.lower() == ".jsonl":
        asked = replace(_asked(changes, accept_licence), video=video)
        return _replay_log(path, output, check, overwrite, console, asked, opener)
    known = find_record(path)
    record, source = known.record, str(path)
    asked = replace(_same_model(_asked(changes, accept_licence), record.model.name), video=video)
    asked = _same_parts(asked, record.config)
    output = output or _name_again(path, known.film)
    if asked.changes:
        _refuse_check(check, asked)
        return _render_changed(provenance_of(record, source), asked, output, overwrite, console, opener)
    model = model_of_record(record.model.name, source, asked.model, models_dir=asked.models_dir)
    parts_of_record(record.config.lora, record.config.vae, source, asked.parts)
    request = _request(record, model, source, output)
    engine = replace(request.engine, offline=asked.model is None or bool(asked.locations.get("offline")))
    engine = replace(
        engine,
        models_dir=asked.models_dir,
        accepted_licences=frozenset(asked.accepted),
        parallel=asked.locations.get("parallel", ""),  # a record starts no ranks by itself
        gpus=asked.locations.get("gpus"),
    )
    request = _with_inputs(replace(request, engine=engine, overwrite=overwrite), path, asked)
    if check:
        _keep(path, known, output)
        return _check(known, request, console, opener)
    if known.trouble:
        _say(console, f"Note: {known.trouble}.")
    return render(request, console=console, opener=opener)


def changed_request(
    provenance: Provenance, changes: Sequence[Layer], output: Path, *, overwrite: bool
) -> RenderRequest:
    """Ask for a film of the same script under other settings.

    Args:
        provenance: what the film was made with.
        changes: settings that are to be others, the strongest first.
        output: the new film.
        overwrite: replace `output`.

    Raises:
        UsageMistake: settings that do not go together, a script that does not fit them, or a model that nobody asked
            for.
    """
    return _changed(provenance, Asked(changes), output, overwrite)


def _changed(provenance: Provenance, asked: Asked, output: Path, overwrite: bool) -> RenderRequest:
    names = {name for layer in asked.changes for name in layer}
    model = None if "model" in names else str(provenance.settings["model"])
    if model is not None:
        model_of_record(model, provenance.source, asked.model, models_dir=asked.models_dir)
    kept = provenance.kept(names)
    parts_of_record(kept.get("lora", ()), kept.get("vae", "auto"), provenance.source, asked.parts)
    resolved = resolve([*asked.changes, provenance.layer(names)])
    video = None if provenance.video is None else changed(provenance.video, resolved)
    settings = resolved.settings.model_copy(update={"output": str(output), **asked.locations})
    if model is not None and asked.model is None:
        settings = settings.model_copy(update={"offline": True})
    fps = provenance.fps if settings.fps is None else float(Fraction(settings.fps))
    script = provenance.script_for(rhythm_of(resolved.preset), fps)
    flags = RunFlags(overwrite=overwrite, accept_licence=asked.accepted, video=video is not None)
    (request,) = film_requests(replace(resolved, settings=settings), flags, [script])
    beginning = request.beginning or provenance.beginning
    return _with_inputs(replace(request, video=video, beginning=beginning), Path(provenance.source), asked)


def _with_inputs(request: RenderRequest, film: Path, asked: Asked) -> RenderRequest:
    """A request with the places where what the film was made of, or began with, lies."""
    video, beginning = request.video, request.beginning
    if video is not None:
        return replace(request, video=replace(video, input=find_input(video, film, asked.video)))
    if beginning is not None:
        return replace(request, beginning=find_beginning(beginning, film, asked.video))
    if asked.video is not None:
        raise UsageMistake(f"{printable(shorten_path(film))} was made of words alone. Leave out --input.")
    return request


def _asked(changes: Sequence[Layer], accepted: tuple[str, ...]) -> Asked:
    """Part the settings of locations from those that change frames."""
    locations = {
        name: given.value for layer in reversed(changes) for name, given in layer.items() if name in _LOCATIONS
    }
    others = [{name: given for name, given in layer.items() if name not in _LOCATIONS} for layer in changes]
    return Asked([layer for layer in others if layer], None, locations, accepted)


def _same_model(asked: Asked, recorded: str) -> Asked:
    """A model that is named as the record names it, or a folder for one that lay in a folder, is permission; another
    is a change."""
    given = next((str(layer["model"].value) for layer in asked.changes if "model" in layer), None)
    if given is None or (given != recorded and (given in MODELS or recorded in MODELS)):
        return replace(asked, model=given)
    others = [{name: value for name, value in layer.items() if name != "model"} for layer in asked.changes]
    return replace(asked, changes=[layer for layer in others if layer], model=given)


def _same_parts(asked: Asked, config: sidecar.Config | LogHeader) -> Asked:
    """LoRAs and an autoencoder that are named as the record names them are permission; others are a change."""
    recorded = {"lora": tuple(config.lora), "vae": config.vae}
    same = {
        name
        for name, value in recorded.items()
        if any(name in layer for layer in asked.changes)
        and next(layer[name].value for layer in asked.changes if name in layer) == value
    }
    others = [{name: value for name, value in layer.items() if name not in same} for layer in asked.changes]
    return replace(asked, changes=[layer for layer in others if layer], parts=frozenset(same))


def _replay_log(
    path: Path,
    output: Path | None,
    check: bool,
    overwrite: bool,
    console: Console,
    asked: Asked,
    opener: StreamOpener,
) -> int:
    log = read_log(path)
    asked = _same_parts(_same_model(asked, log.header.model.name), log.header)
    output = output or _name_again(path, None)
    if asked.changes:
        _refuse_check(check, asked)
        return _render_changed(provenance_of_log(log, str(path)), asked, output, overwrite, console, opener)
    from app.render.replay_log import replay_log

    return replay_log(
        path,
        output,
        check=check,
        overwrite=overwrite,
        console=console,
        model=asked.model,
        pictures=asked.video,
        parts=asked.parts,
    )


def _keep(path: Path, known: Known, output: Path) -> None:
    """What is checked is not written over, whatever --overwrite says: there would be nothing left to compare."""
    checked = {path, *(() if known.film is None else (known.film, sidecar.sidecar_path(known.film)))}
    written = {output, sidecar.sidecar_path(output)}
    if {each.resolve() for each in checked} & {each.resolve() for each in written}:
        raise UsageMistake(
            f"{printable(shorten_path(output))} would take the place of what is checked. Give another --output."
        )


def _refuse_check(check: bool, asked: Asked) -> None:
    if check:
        changed = sorted({name for layer in asked.changes for name in layer})
        raise UsageMistake(
            f"Another {changed[0]} makes other frames, so there is nothing to compare. Leave out --check or it."
        )


def _render_changed(
    provenance: Provenance, asked: Asked, output: Path, overwrite: bool, console: Console, opener: StreamOpener
) -> int:
    request = _changed(provenance, asked, output, overwrite)
    changed = sorted({name for layer in asked.changes for name in layer})
    told = f"A new film of the same script: under another {' and '.join(changed)} its frames are others."
    for sentence in (told, *provenance.notes):
        _say(console, sentence)
    return render(request, console=console, opener=opener)


def _check(known: Known, request: RenderRequest, console: Console, opener: StreamOpener) -> int:
    """Prove what can be proven before the film is rendered again, render it, prove the rest, and say all of it."""
    record, film = known.record, known.film
    whole = Finding(False, known.trouble) if known.trouble else check_record(record, known.tags)
    _tell(console, "Record", whole)
    if film is None:
        pictures = Finding(None, "not checked, for there is no film beside its .json")
    else:
        pictures = check_pictures(film, record)
    _tell(console, "Pictures", pictures)
    found = {"record": whole, "pictures": pictures}
    if not whole.usable:
        _tell(console, "Settings", Finding(None, "not rendered again, for the record has to be whole first"))
        return _verdict(console, found, record)
    if record.status == LIVE:
        if False in (whole.proven, pictures.proven):
            return _verdict(console, found, record)
        raise UsageMistake(
            "Settings: a film of a live session has no hashes of its chunks. Give the session.jsonl of the live film."
        )
    code = render(request, console=console, opener=opener)
    if code != EXIT_OK:
        return code
    again = sidecar.read(sidecar.sidecar_path(request.output))
    found["settings"] = _check_settings(record, again)
    _tell(console, "Settings", found["settings"])
    if film is not None and pictures.proven is not False and found["settings"].proven:
        compared = check_again(film, request.output, record, again.pictures)
        _tell(console, "Pictures", compared)
        if compared.proven is not None:
            found["pictures"] = compared
    elif film is not None and pictures.proven is None:
        _tell(console, "Pictures", Finding(None, "not compared, for the frames rendered again are others"))
    reasons = "" if found["settings"].proven else _reasons(record, again, trusted=whole.proven is True)
    return _verdict(console, found, record, reasons)


def _check_settings(record: sidecar.Carried, again: sidecar.Sidecar) -> Finding:
    if (difference := _difference(record, again)) or again.film.sha256 != record.film.sha256:
        return Finding(False, f"they make other frames now{difference}")
    return Finding(True, f"rendered again, all {len(again.chunks)} chunks are bit for bit those recorded")


def _verdict(console: Console, found: Mapping[str, Finding], record: sidecar.Carried, reasons: str = "") -> int:
    wrong = [what for what, finding in found.items() if finding.proven is False]
    if wrong:
        verb = "does" if wrong == ["record"] else "do"
        _say(console, f"Not the same film: its {' and '.join(wrong)} {verb} not match. {reasons}".rstrip())
        return EXIT_FAILURE
    unseen = [what for what, finding in found.items() if finding.proven is None]
    but = f"; its {' and '.join(unseen)} could not be checked" if unseen else ""
    _say(console, f"The same film: sha256 {record.film.sha256} over {record.film.frames} frames{but}.")
    return EXIT_OK


def _tell(console: Console, what: str, finding: Finding) -> None:
    word = {True: "proven", False: "DOES NOT MATCH", None: "not proven"}[finding.proven]
    sentence = finding.sentence
    if sentence.split(" ", 1)[0].isalpha():  # and no file's name
        sentence = sentence[:1].upper() + sentence[1:]
    _say(console, f"{what}: {word}. {sentence}.")


def _say(console: Console, sentence: str) -> None:
    console.print(printable(sentence), soft_wrap=True)


def _name_again(path: Path, film: Path | None) -> Path:
    """What the new film is called: film-again.mp4, and pictures-again/frame_%06d.png."""
    kind = "mp4" if film is None else sink_kind(film)
    if film is not None and kind == "png":
        return film.parent.with_name(f"{film.absolute().parent.name}-again") / film.name
    return path.with_name(f"{path.stem}-again.{kind}")


def _request(record: sidecar.Carried, model: str, source: str, output: Path) -> RenderRequest:
    config = record.config.model_copy(update={"frames": record.film.frames})
    request = request_of(config, seed=record.seed, model=model, source=source, output=output)
    if record.film.frames == record.config.frames:
        return request
    # Of a film that ended early the shots that are in it, each at its own frame: shares would be of another length.
    if len(request.script.shots) != len(record.shots):
        raise UsageMistake(f"{printable(shorten_path(source))}: its shots are damaged. Give another copy of it.")
    shots = [
        replace(shot, at=Length(recorded.requested.frame, "f"))
        for shot, recorded in zip(request.script.shots, record.shots, strict=True)
        if recorded.actual.frame < record.film.frames
    ]
    return replace(request, script=replace(request.script, shots=tuple(shots), end=None))


def _difference(record: sidecar.Carried, again: sidecar.Sidecar) -> str:
    before = record.chunks if isinstance(record, sidecar.Sidecar) else []
    for old, new in zip(before, again.chunks, strict=False):
        if old.sha256 != new.sha256:
            return f". The first chunk that differs is {old.index} (frame {old.frames[0]})"
    return ""


def _reasons(record: sidecar.Carried, again: sidecar.Sidecar, *, trusted: bool) -> str:
    """What changed since the film was made; `trusted` if its record is in order."""
    changed = [
        shorten(f"{name} {old} then, {new} now", 120)
        for name, old, new in (
            *((name, old, again.versions.get(name)) for name, old in record.versions.items()),
            ("CPU", record.machine.get("cpu"), again.machine.get("cpu")),
            ("model", record.model.sha256[:12], again.model.sha256[:12]),
            ("ranks", record.config.parallel or "one process", again.config.parallel or "one process"),
        )
        if old != new
    ][:10]
    if not changed and not trusted:
        return "Machine, versions and model are the same; what its record says of them or of its chunks was changed."
    if not changed:
        return "Machine, versions and model are the same, so this should not be: please report it."
    return f"What changed: {json.dumps(changed, ensure_ascii=False)[1:-1]}."
