"""The flags of `rivulet v2v`: a film made of a video, under the prompts and settings of `rivulet render`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ModelName, Threads, option
from app.cli.render import script_among, split_words
from app.config.table import READERS, TABLE
from app.errors import UsageMistake, printable, shorten
from app.media.inputs import is_live
from pipelines.file_names import names_a_file

EPILOG = (
    'Example: rivulet v2v in.mp4 "a red ball bounces over the sea" -o out.mp4 --strength 0.6. '
    "Every other setting of render may follow as name=value (sink_size=3) or stand in a --config file. "
    "docs/video-to-video.md says what strength to take, and what becomes of rates, sizes and sound."
)


def v2v_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEO PROMPT|SCRIPT",
            help="What the film is made of, and what to show: prompts, which share the film equally, or one script.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="VIDEO",
            help="What the film is made of, where it does not come first: a file, webcam:0, webcam:NAME, rtsp://..., "
            "https://..., screen, screen:2.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt, as it stands; may be repeated.", show_default=False)
    ] = None,
    script: Annotated[
        str | None, typer.Option("--script", metavar="FILE", help="Shot list, prompts a line, table, subtitles, ...")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|virtualcam",
            help="The film, or a camera for others.",
            show_default="out.mp4",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            help="How much of the video is given up to the prompt, above 0 and at most 1.",
            show_default="0.7",
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            "--latency",
            metavar="TIME",
            help="Of a live source: how old a picture may be when it is made over, such as 400ms; steps are given up.",
            show_default="as old as it gets",
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option("--fit", help="Pictures of another shape: crop, pad or stretch.", show_default="crop"),
    ] = None,
    rotate: Annotated[
        int,
        typer.Option("--rotate", help="Turn the video clockwise by 90, 180 or 270, beside its own rotation."),
    ] = 0,
    fps: Annotated[
        str | None,
        typer.Option(
            "--fps",
            help="Take so many pictures a second; the model's own rate follows a faster video more closely.",
            show_default="each one of a file, at its own time",
        ),
    ] = None,
    sound: Annotated[bool, typer.Option("--sound/--no_sound", help="Keep the sound of the video.")] = True,
    audio: Annotated[str | None, typer.Option("--audio", metavar="FILE", help="Other sound for the film.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Settings as .yaml, .json or .toml.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", help="20s, 0:20, 320f (frames) ...", show_default="the video's")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="-1 draws one, prints it and saves it.", show_default="42")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Streaming system; `rivulet presets`.", show_default="embedded")
    ] = None,
    model: ModelName = None,
    untrained: Annotated[
        bool | None, typer.Option("--untrained", help="Allow a preset or size the model was not trained for.")
    ] = None,
    transition: Annotated[
        str | None,
        typer.Option("--transition", help="How a prompt takes over: recache, soft, cut, keep.", show_default="recache"),
    ] = None,
    transition_chunks: Annotated[
        int | None, typer.Option("--transition_chunks", help="Length of a soft transition.", show_default="4")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Picture size.", show_default="the model's")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option("--scale", min=0, max=16, help="Enlarge the film; 0 brings small ones near 384 pixels."),
    ] = None,
    crf: Annotated[int | None, typer.Option("--crf", min=0, max=51, help="H.264 quality.", show_default="18")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default="auto")] = None,
    threads: Threads = None,
    parallel: Annotated[str | None, option(TABLE["parallel"])] = None,
    gpus: Annotated[int | None, option(TABLE["gpus"])] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Download nothing.")] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option("--accept_licence", metavar="MODEL", help="You accept the licence of these weights."),
    ] = None,
    side_by_side: Annotated[
        str | None,
        typer.Option(
            "--side_by_side", metavar="FILE", help="Write a second film too: video and film beside each other."
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write an .html page about the render.")
    ] = None,
    metadata: Annotated[
        bool | None, typer.Option("--metadata/--no_metadata", help="Without: the .mp4 tells no prompt or setting.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a film that did not finish.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing film.")] = False,
    json_progress: Annotated[
        bool, typer.Option("--json_progress", help="Progress as a line of JSON a chunk, for programs.")
    ] = False,
) -> int:
    """Make a film of a video: it keeps what moves where, and shows what the prompts say."""
    from app.config.settings import given_by_file, given_by_flags, given_by_overrides, resolve

    texts, overrides = split_words(words or [])
    begun = resume and source is None and not texts  # its journal knows
    if source is None and texts:
        source, *texts = texts
    if source is None and not begun:
        raise UsageMistake(
            'There is no video. Say what to make the film of: rivulet v2v in.mp4 "a red ball" -o out.mp4'
        )
    if source is not None and not is_live(source) and not names_a_file(source):
        shown = printable(shorten(source, 40))
        raise UsageMistake(f'"{shown}" is no video. It comes first: rivulet v2v in.mp4 "a red ball" -o out.mp4')
    settings = {*READERS, "size"} - {"prompt"}
    flags: dict[str, object] = {name: value for name, value in context.params.items() if name in settings}
    file = script_among(texts, others=[*(prompt or []), *(f for f in (script,) if f)])
    if file is not None:
        flags["script"] = file
    else:
        flags["prompt"] = [*texts, *(prompt or [])]
    layers = [given_by_flags(flags), given_by_overrides(overrides)]
    if config is not None:
        layers.append(given_by_file(Path(config)))
    resolved = resolve(layers)
    from app.render.batch import RunFlags, film
    from app.render.from_video import read_request

    video = None
    if source is not None:
        video = read_request(
            source,
            strength=strength,
            fit=fit,
            turn=rotate,
            sound=sound,
            side_by_side=side_by_side,
            latency=latency,
        )
    return film(
        resolved,
        RunFlags(
            resume=resume,
            overwrite=overwrite,
            json_progress=json_progress,
            accept_licence=tuple(accept_licence or ()),
            video=video,
        ),
    )
