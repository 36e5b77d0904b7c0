"""The command line: `rivulet render`, `presets`, `bench`.

Nothing heavy is imported before a command needs it, so help comes at once; and every mistake ends as one
sentence and one action on stderr, never as a traceback (`--debug` shows it).
"""

import io
import json
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.errors import EXIT_OK, EXIT_USAGE, UsageMistake, explain, printable, shorten
from app.timeline import FASTEST_FPS
from pipelines.types import TRANSITIONS, Transition

if TYPE_CHECKING:
    from app.opening import EngineRequest

SOFT_CHUNKS = 4
"""Length of a soft transition when none is given: about three seconds with chunks of three latent frames."""

Name = TypeVar("Name", bound=str)
DURATION = "20s"
LARGEST_SIDE = 4096
SEED_LIMIT = 2**63

app = typer.Typer(
    name="rivulet",
    help="Streaming text-to-video: one endless film that follows your words while it plays.",
    epilog="Flags may be written with _ or -. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

PresetName = Annotated[str, typer.Option("--preset", help="Streaming system; `rivulet presets` lists them.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Name or folder of a model.", show_default="the preset's")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=256, help="CPU threads.", show_default="all cores")
]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = normalise(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a render
    try:
        _check_command(arguments)
        result: object = app(arguments, prog_name="rivulet", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_OK
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments[:1]:
            traceback.print_exception(error)
        message, code = _explain_usage(error) if isinstance(error, typer.TyperException) else explain(error)
        print(f"rivulet: {printable(message)}", file=sys.stderr)
        return code


def normalise(argv: Sequence[str]) -> list[str]:
    """Spell flags with `_`, as either is common, and put `--debug` first; a bare `--` ends it."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    flags: list[str] = []
    for argument in argv[:end]:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        flags.append(name + equals + value)
    debug = ["--debug"] if "--debug" in flags else []
    return debug + [flag for flag in flags if flag != "--debug"] + list(argv[end:])


def choose(name: str, choices: Sequence[Name], what: str) -> Name:
    """Return the choice called `name`; if there is none, say which there are and which is nearest."""
    for choice in choices:
        if choice == name:
            return choice
    near = get_close_matches(name.lower(), choices, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UsageMistake(f"There is no {what} {shorten(name, 40)!r}: choose from {', '.join(choices)}{hint}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")] = False,
) -> None:
    """Print the help when no command is given."""
    if version:
        from app.sidecar import library_versions

        print("  ".join(f"{name} {number}" for name, number in library_versions().items()))
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    "render",
    short_help="Render prompts into a film.",
    epilog='Example: rivulet render "a red ball bounces over the sea" "a blue star over snow" -o out.mp4',
)
def render_command(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to show; several share the film equally.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The film, an .mp4.")] = Path("out.mp4"),
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            help="20s, 0:20, 1m30s, 320f (frames), 32l (latent frames) or 11c (chunks).",
            show_default=DURATION,
        ),
    ] = None,
    num_frames: Annotated[int | None, typer.Option("--num_frames", help="Length in frames instead.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="-1 draws one, prints it and saves it.")] = 42,
    preset: PresetName = "embedded",
    model: ModelName = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Allow a preset or size the model was not trained for.")
    ] = False,
    transition: Annotated[
        str, typer.Option("--transition", help="How a prompt takes over: recache, soft, cut or keep.")
    ] = "recache",
    transition_chunks: Annotated[
        int | None,
        typer.Option("--transition_chunks", help="Length of a soft transition.", show_default=str(SOFT_CHUNKS)),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Picture size.", show_default="the model's")
    ] = None,
    height: Annotated[int | None, typer.Option("--height", help="Picture height, in pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Picture width, in pixels.")] = None,
    fps: Annotated[
        str | None,
        typer.Option("--fps", help="Frame rate of the film; another than the model's own plays faster or slower."),
    ] = None,
    scale: Annotated[
        int,
        typer.Option(
            "--scale", min=0, max=16, help="Enlarge the film; 0 brings small ones near 384 pixels, 1 leaves them."
        ),
    ] = 0,
    crf: Annotated[int, typer.Option("--crf", min=0, max=51, help="H.264 quality, less is better.")] = 18,
    device: DeviceName = "auto",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing film.")] = False,
) -> int:
    """Render prompts into a film (.mp4), with a .json of settings, seed and hashes beside it."""
    from rich.console import Console

    from app.render import RenderRequest, render
    from app.timeline import parse_length

    if num_frames is not None and duration is not None:
        raise UsageMistake("The length is given twice. Use either --duration or --num_frames.")
    length = f"{num_frames}f" if num_frames is not None else duration or DURATION
    request = RenderRequest(
        prompts=tuple(prompts or ()),
        output=output,
        length=parse_length(length),
        duration=length,
        engine=_engine_request(preset, model, untrained, device, threads, _picture(size, height, width)),
        seed=_seed(seed),
        fps=_frame_rate(fps),
        transition=_transition(transition, transition_chunks),
        scale=scale,
        crf=crf,
        overwrite=overwrite,
    )
    return render(request, console=Console(highlight=False, markup=False, emoji=False))


@app.command("presets", short_help="List the streaming systems.")
def presets_command(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the streaming systems and whether their models are on this disk."""
    from app.listing import preset_notes, preset_rows, preset_table

    rows = preset_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False, markup=False)
        console.print(preset_table(rows))
        console.print(preset_notes(rows), soft_wrap=True)


@app.command("bench", short_help="Measure speed, memory, start-up or quality.")
def bench_command(
    name: Annotated[str, typer.Argument(metavar="stream|memory|startup|quality", help="What to measure.")] = "stream",
    preset: PresetName = "embedded",
    model: ModelName = None,
    device: DeviceName = "auto",
    threads: Threads = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=1,
            max=86400,
            help="stream: seconds of film; quality: of each film.",
            show_default="20, quality 4",
        ),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=1, max=10_000, help="quality: films to judge.")] = 100,
    frames: Annotated[
        int, typer.Option("--frames", min=20, max=10**7, help="memory: latent frames to go to.")
    ] = 10_000,
    no_decode: Annotated[bool, typer.Option("--no_decode", help="memory: leave out decoding (faster).")] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=100, help="startup: runs a command.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Where the numbers go.", show_default=False)
    ] = None,
) -> None:
    """Measure speed and first frame, memory over a long film, start-up, or the quality of the films."""
    from rich.console import Console

    from app import bench

    bench.run(
        choose(name, bench.BENCHMARKS, "benchmark"),
        engine=_engine_request(preset, model, False, device, threads, (None, None)),
        seconds=seconds,
        frames=frames,
        decode=not no_decode,
        repeats=repeats,
        prompts=prompts,
        json_file=json_file,
        console=Console(highlight=False),
    )


def _engine_request(
    preset: str,
    model: str | None,
    untrained: bool,
    device: str,
    threads: int | None,
    picture: tuple[int | None, int | None],
) -> "EngineRequest":
    from app.opening import DEVICES, EngineRequest
    from pipelines.presets import PRESETS

    if model is not None and ("\0" in model or not model.strip()):
        raise UsageMistake("The name of the model is empty or holds a NUL byte. Give a name or a folder.")
    return EngineRequest(
        preset=PRESETS[choose(preset, list(PRESETS), "preset")],
        model=model,
        untrained=untrained,
        device=choose(device, DEVICES, "device"),
        threads=threads,
        height=picture[0],
        width=picture[1],
    )


def _transition(kind: str, chunks: int | None) -> Transition:
    known = choose(kind, TRANSITIONS, "transition")
    if known != "soft":
        if chunks is not None:
            raise UsageMistake(
                f"A {kind} transition has no length. Leave out --transition_chunks, or use --transition soft."
            )
        return Transition(known)
    length = SOFT_CHUNKS if chunks is None else chunks
    if not 1 <= length <= 10_000:
        raise UsageMistake(f"A soft transition cannot last {length} chunks. Give --transition_chunks 1 or more.")
    return Transition("soft", length)


def _picture(size: str | None, height: int | None, width: int | None) -> tuple[int | None, int | None]:
    """Return (height, width) from either way of giving them."""
    if size is not None:
        if height is not None or width is not None:
            raise UsageMistake("The size is given twice. Use either --size or --height and --width.")
        found = re.fullmatch(r"(\d{1,5})[x\u00d7](\d{1,5})", size.strip().lower(), re.ASCII)
        if found is None:
            raise UsageMistake(f"This is not a size: {shorten(size, 40)!r}. Write width x height, for example 96x96.")
        width, height = int(found[1]), int(found[2])
    for side in (height, width):
        if side is not None and not 8 <= side <= LARGEST_SIDE:
            raise UsageMistake(f"A picture cannot be {side} pixels high or wide. Give 8 to {LARGEST_SIDE}.")
    return height, width


def _frame_rate(fps: str | None) -> Fraction | None:
    if fps is None:
        return None
    try:
        if re.fullmatch(r"\d{1,4}(\.\d{1,6}|/\d{1,4})?", fps.strip(), re.ASCII) is None:
            raise ValueError(fps)
        rate = Fraction(fps).limit_denominator(1001)  # 23.976 is 24000/1001
    except (ValueError, ZeroDivisionError):
        raise UsageMistake(
            f"This is not a frame rate: {shorten(fps, 40)!r}. Give frames a second, for example 16."
        ) from None
    if not 1 <= rate <= FASTEST_FPS:
        raise UsageMistake(f"A film cannot play {shorten(fps, 40)} frames a second. Give 1 to {FASTEST_FPS}.")
    return rate


def _seed(seed: int) -> int:
    if not -1 <= seed < SEED_LIMIT:
        raise UsageMistake(f"The seed {seed} is out of range. Give 0 to {SEED_LIMIT - 1}, or -1 to draw one.")
    return seed


def _check_command(arguments: Sequence[str]) -> None:
    """Refuse an unknown command with the nearest one; a whole sentence was meant for render."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = [command.name for command in app.registered_commands if command.name]
    if word is None or word in names:
        return
    if " " in word.strip():
        raise UsageMistake(f'"{shorten(word, 40)}" is not a command. To film it: rivulet render "{shorten(word, 40)}"')
    choose(word, names, "command")


def _explain_usage(error: typer.TyperException) -> tuple[str, int]:
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rivulet"
    option: str | None = getattr(error, "option_name", None)
    if option is not None and type(error).__name__ == "NoSuchOption":
        near: Sequence[str] = getattr(error, "possibilities", None) or ()
        hint = f"; did you mean {' or '.join(near)}?" if near else f". See `{command} --help`."
        return f"{command} has no flag {shorten(option, 40)}{hint}", EXIT_USAGE
    return f"{error.format_message().rstrip('.')}. See `{command} --help`.", EXIT_USAGE
