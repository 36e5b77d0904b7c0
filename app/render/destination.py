"""Destination of a film: what it may be called, what must not lie there already; told before a model loads."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UsageMistake, shorten_path
from app.media.stills import PngSequence, sink_kind
from app.record import sidecar
from app.record.request import RenderRequest


def check_name(request: RenderRequest) -> None:
    """Refuse an output that can be no film, whatever is there; the folder for a sequence of pictures is made.

    Raises:
        UsageMistake: one sentence and one action.
    """
    output = request.output
    with _told(output):
        if output.is_dir():
            raise UsageMistake(
                f"{output} is a folder. Give a file name in it, for example {output / 'out.mp4'}, "
                f"or {output}/ for PNGs."
            )
        kind = sink_kind(output)
        if kind != "mp4" and request.resume:
            raise UsageMistake(f"Only an .mp4 can be resumed, not {output}. Render it again with --overwrite.")
        if kind != "mp4" and request.audio is not None:
            raise UsageMistake(f"{output} holds no sound. Leave out --audio, or give {output.stem}.mp4.")
        if kind == "mp4" and output.stem.lower().endswith(".part"):
            whole = output.with_name(output.stem[: -len(".part")] + output.suffix)
            raise UsageMistake(f"{output} is what {whole} is called while it grows. Give another output.")
        if kind == "png" and output.parent.parent.is_dir():
            output.parent.mkdir(exist_ok=True)  # a folder of pictures is as much the output as a film is
        if not output.parent.is_dir():
            raise UsageMistake(f"There is no folder {output.parent}. Create it, or give another output.")
        own = {path.absolute() for path in _files(request)}
        if request.report is not None and request.report.absolute() in own:
            raise UsageMistake(f"{request.report} is a file of the film itself. Give --report another name.")
        if request.video is not None and Path(request.video.input).resolve() in {path.resolve() for path in own}:
            raise UsageMistake(f"{request.video.input} would be replaced by the film made of it. Give another output.")
        if request.audio is not None and request.audio.absolute() in own:
            raise UsageMistake(f"{request.audio} is a file of the film itself. Give another output.")


def check_free(request: RenderRequest) -> None:
    """Refuse to replace what is there without being asked to, and a place that cannot be written.

    Raises:
        UsageMistake: one sentence and one action.
    """
    with _told(request.output):
        begun = (request.folder / "journal.jsonl").is_file()
        further = [request.report, None if request.video is None else request.video.side_by_side]
        for path in (*_files(request), *(path for path in further if path is not None)):
            if path.is_dir():
                raise UsageMistake(f"{path} is a folder and a file of that name is needed. Give another output.")
            if not path.parent.is_dir():
                raise UsageMistake(f"There is no folder {path.parent}. Create it, or give another file.")
            if path.exists() and not request.overwrite and not (request.resume and begun):
                if path == request.part:
                    goes_on = "Add --resume to go on with it, " if begun else "Its journal is gone: add "
                    raise UsageMistake(
                        f"{path} was left by a render that did not finish. "
                        f"{goes_on}--overwrite to replace it, or give another output."
                    )
                if request.resume and path == request.output:
                    raise UsageMistake(
                        f"{path} is there, and neither a journal to go on with nor a .json that proves it whole. "
                        "Add --overwrite instead of --resume to replace it, or give another output."
                    )
                raise UsageMistake(f"{path} exists already. Add --overwrite to replace it, or give another output.")
        if request.folder.exists() and not request.folder.is_dir():
            raise UsageMistake(f"{request.folder} is a file, and a folder of that name is needed. Give another output.")
        if sink_kind(request.output) == "png" and not request.overwrite:
            first = PngSequence(request.output).file(0)
            if first.exists():
                raise UsageMistake(f"{first} exists already. Add --overwrite, or give another output.")
        fresh = not request.part.exists()
        request.part.open("ab").close()  # the only honest test of permissions, read-only systems and quotas
        if fresh:
            request.part.unlink()


def _files(request: RenderRequest) -> tuple[Path, ...]:
    return (
        request.part,
        request.output,
        *(sidecar.beside(request.output, ending) for ending in (".json", ".vtt")),
    )


@contextmanager
def _told(output: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UsageMistake(
            f"{shorten_path(output)} cannot be written ({error.strerror}). Give another output."
        ) from error
