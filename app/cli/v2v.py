"""The flags of `rivulet v2v`: a film made of a video, under the prompts and settings of `rivulet render`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import flags_of
from app.cli.render import script_among, split_words
from app.config.setting import Setting
from app.config.settings import Layer
from app.config.table import TABLE
from app.errors import UsageMistake, printable, shorten
from app.media.inputs import is_live
from pipelines.file_names import is_script_name, names_a_file

EPILOG = (
    'Example: rivulet v2v in.mp4 "a red ball bounces over the sea" -o out.mp4 --strength 0.6. '
    "Every other flag of render may follow, or stand as name=value (sink_size=3) or in a --config file. "
    "docs/video-to-video.md says what strength to take, and what becomes of rates, sizes and sound."
)
_SHOWN = (
    *("prompt", "script", "output", "fps", "audio", "config", "duration", "seed", "preset", "model", "untrained"),
    *("transition", "transition_chunks", "size", "scale", "crf", "encoder_preset", "device", "threads"),
    *("parallel", "gpus", "offline", "accept_licence"),
    *("report", "metadata", "resume", "overwrite", "json_progress"),
)
"""Flags of render that help lists here, beside those of a video."""
_NOT_HERE = ("export", "dry_run", "json", "cluster")
"""Flags of render for scripts alone."""
_OTHERWISE: dict[str, dict[str, str]] = {
    "output": {"help": "The film, or a camera for others.", "written": "FILE|virtualcam"},
    "duration": {"usual": "the video's"},
    "fps": {
        "help": "Take so many pictures a second; the model's own rate follows a faster video more closely.",
        "usual": "each one of a file, at its own time",
    },
}
"""What some of them mean of a video."""


def _flags() -> Iterator[Setting]:
    for name, entry in sorted(TABLE.items(), key=lambda item: item[1].kind != "video"):
        if {"v2v", "command line"} & {*entry.places} and name not in _NOT_HERE:
            yield replace(entry, **_OTHERWISE.get(name, {}))


@flags_of(_flags(), hidden=[name for name, entry in TABLE.items() if entry.kind != "video" and name not in _SHOWN])
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
    **given: Any,
) -> int:
    """Make a film of a video: it keeps what moves where, and shows what the prompts say."""
    from app.config.settings import given_by_file, given_by_flags, given_by_overrides, resolve

    texts, overrides = split_words(words or [])
    layers = [given_by_overrides(overrides)]
    if given["config"] is not None:
        layers.append(given_by_file(Path(given["config"])))
    source: str | None = given["input"]
    if source is None and texts and _begins_with_video(texts, layers):
        source, *texts = texts
    if source is None:
        source = next((str(layer["input"].value) for layer in layers if "input" in layer), None)
    if source is None and not (given["resume"] and not texts):  # whose journal knows
        raise UsageMistake(
            'There is no video. Say what to make the film of: rivulet v2v in.mp4 "a red ball" -o out.mp4'
        )
    if source is not None and not is_live(source) and not names_a_file(source):
        shown = printable(shorten(source, 40))
        raise UsageMistake(f'"{shown}" is no video. It comes first: rivulet v2v in.mp4 "a red ball" -o out.mp4')
    flags = {name: value for name, value in given.items() if TABLE[name].kind != "run" and name != "prompt"}
    prompt: list[str] = given["prompt"] or []
    file = script_among(texts, others=[*prompt, *(f for f in (given["script"], given["prompts"]) if f)])
    if file is not None:
        flags["script"] = file
    else:
        flags["prompt"] = [*texts, *prompt]
    resolved = resolve([given_by_flags(flags | {"input": source}), *layers])
    from app.render.batch import RunFlags, film

    return film(
        resolved,
        RunFlags(
            resume=given["resume"],
            overwrite=given["overwrite"],
            json_progress=given["json_progress"],
            accept_licence=tuple(given["accept_licence"] or ()),
            video=True,
        ),
    )


def _begins_with_video(texts: list[str], layers: list[Layer]) -> bool:
    """Whether the first word is the video: always, unless a file or a setting says one and the word is no other."""
    if not any("input" in layer for layer in layers):
        return True
    return is_live(texts[0]) or (names_a_file(texts[0]) and not is_script_name(texts[0]))
