"""The flags of `rivulet render`, and which of its words are prompts, scripts and settings.

Flags only: what they mean beside a config file is decided in app/config/settings.py, what is filmed in
app/render/batch.py. Every flag is None until it is given, or it could not be told from its default.
"""

import os
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ModelName, Threads
from app.config.aliases import ALIASES, GROUPS, primary
from app.config.nodes import one_line
from app.config.readers import READERS
from app.errors import UsageMistake, printable, shorten
from pipelines.file_names import names_a_file

EPILOG = (
    'Example: rivulet render "a red ball bounces over the sea" "a blue star over snow" -o out.mp4. '
    "A word that is a file, or ends like one, is read as a script and never filmed; say such words with --prompt. "
    "Settings may follow as name=value (sink_size=3) and stand in a --config file; "
    "flags win over these, these over the file, the file over the preset."
)

_SETTING = re.compile(r"([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)=", re.ASCII)


def render_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT|SCRIPT",
            help="What to show; several prompts share the film equally. Or one script: a file that is there, or a name "
            "that ends like one (.yaml, .txt, .srt, .csv, ...) or begins like a path.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt, as it stands; may be repeated.", show_default=False)
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            "--script", metavar="FILE", help="Shot list, prompts a line, table, subtitles, ... (docs/render.md)."
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="FILE", help="A film a line; --output is then a folder.")
    ] = None,
    switch_frame_indices: Annotated[
        str | None,
        typer.Option("--switch_frame_indices", metavar="40,80", help="Latent frames at which the prompts change."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE|FOLDER", help="The film.", show_default="out.mp4"),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Settings as .yaml, .json or .toml.")
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            help="20s, 0:20, 1m30s, 320f (frames), 32l (latent frames) or 11c (chunks).",
            show_default="the script's, or 20s",
        ),
    ] = None,
    num_frames: Annotated[int | None, typer.Option("--num_frames", help="Length in frames instead.")] = None,
    num_output_frames: Annotated[
        int | None, typer.Option("--num_output_frames", help="Length in latent frames instead.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="-1 draws one, prints it and saves it.", show_default="42")
    ] = None,
    seed_mode: Annotated[
        str | None,
        typer.Option("--seed_mode", help="Of several films: fixed, increment or random.", show_default="increment"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Streaming system; `rivulet presets` lists them.", show_default="embedded"),
    ] = None,
    model: ModelName = None,
    untrained: Annotated[
        bool | None, typer.Option("--untrained", help="Allow a preset or size the model was not trained for.")
    ] = None,
    transition: Annotated[
        str | None,
        typer.Option(
            "--transition", help="How a prompt takes over: recache, soft, cut or keep.", show_default="recache"
        ),
    ] = None,
    transition_chunks: Annotated[
        int | None, typer.Option("--transition_chunks", help="Length of a soft transition.", show_default="4")
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
        int | None,
        typer.Option(
            "--scale",
            min=0,
            max=16,
            help="Enlarge the film; 0 brings small ones near 384 pixels, 1 leaves them.",
            show_default="0",
        ),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option("--crf", min=0, max=51, help="H.264 quality, less is better.", show_default="18"),
    ] = None,
    segment_chunks: Annotated[
        int | None,
        typer.Option("--segment_chunks", help="Chunks between two snapshots: what a kill can cost.", show_default="24"),
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num_inference_steps", help="Denoising steps.", show_default="the preset's")
    ] = None,
    denoising_step_list: Annotated[
        str | None, typer.Option("--denoising_step_list", metavar="1000,750,...", help="These steps instead.")
    ] = None,
    shift: Annotated[float | None, typer.Option("--shift", help="Of the schedule; more favours high noise.")] = None,
    warp_denoising_step: Annotated[
        bool | None,
        typer.Option("--warp_denoising_step/--no_warp_denoising_step", help="Bend the steps by the shift."),
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance_scale", help="How hard to follow the prompt; 1 is off.")
    ] = None,
    context_noise: Annotated[
        float | None, typer.Option("--context_noise", help="Timestep of the remembered frames, 0 to 999.")
    ] = None,
    local_attn_size: Annotated[
        int | None, typer.Option("--local_attn_size", help="Window, in latent frames, sink and chunk included.")
    ] = None,
    sink_size: Annotated[
        int | None, typer.Option("--sink_size", help="First latent frames that are never forgotten.")
    ] = None,
    num_frame_per_block: Annotated[
        int | None, typer.Option("--num_frame_per_block", help="Latent frames a chunk.")
    ] = None,
    independent_first_frame: Annotated[
        bool | None,
        typer.Option("--independent_first_frame/--no_independent_first_frame", help="Begin with a chunk of one."),
    ] = None,
    kv_cache_attention_bias: Annotated[
        float | None,
        typer.Option("--kv_cache_attention_bias", help="How much past frames count, up to 1; less repeats less."),
    ] = None,
    recache_on_switch: Annotated[
        bool | None,
        typer.Option("--recache_on_switch/--no_recache_on_switch", help="Replay the memory under a new prompt."),
    ] = None,
    global_sink: Annotated[
        bool | None, typer.Option("--global_sink/--no_global_sink", help="Keep the sink as it is in a replay.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default="auto")] = None,
    threads: Threads = None,
    models_dir: Annotated[
        str | None,
        typer.Option("--models_dir", metavar="FOLDER", help="Of downloads.", show_default="the Hugging Face cache"),
    ] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Download nothing.")] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option("--accept_licence", metavar="MODEL", help="You accept the licence of these weights."),
    ] = None,
    audio: Annotated[str | None, typer.Option("--audio", metavar="FILE", help="Sound for the film.")] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write an .html page about the render.")
    ] = None,
    metadata: Annotated[
        bool | None,
        typer.Option(
            "--metadata/--no_metadata",
            help="Without: the .mp4 tells no prompt, seed or setting, and its chapters are numbers. "
            "The .json and .vtt beside it still do.",
        ),
    ] = None,
    subtitles: Annotated[
        bool | None,
        typer.Option("--subtitles/--no_subtitles", help="Without: no .vtt, which holds the prompts."),
    ] = None,
    sidecar: Annotated[
        bool | None,
        typer.Option(
            "--sidecar/--no_sidecar",
            help="Without: no .json, which holds prompts, seed and settings; nothing can then prove the film.",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Write the script as .yaml, or .jsonl for LongLive, and film nothing."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a render that did not finish.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing film.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Print what would be filmed, and what it costs; film nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry_run: for programs.")] = False,
    json_progress: Annotated[
        bool, typer.Option("--json_progress", help="Progress as a line of JSON a chunk, for programs.")
    ] = False,
) -> int:
    """Render prompts or a script into a film (.mp4), with a .json of settings, seed and hashes beside it."""
    from app.config.settings import given_by_file, given_by_flags, given_by_overrides, resolve

    texts, overrides = split_words(words or [])
    settings = {*READERS, "size"} - {"prompt"}
    flags: dict[str, object] = {name: value for name, value in context.params.items() if name in settings}
    file = script_among(texts, others=[*(prompt or []), *(f for f in (script, prompts) if f)])
    if file is not None:
        flags["script"] = file
    else:
        flags["prompt"] = [*texts, *(prompt or [])]
    if as_json and not dry_run:
        raise UsageMistake("--json goes with --dry_run. Add --dry_run, or use --json_progress.")
    layers = [given_by_flags(flags), given_by_overrides(overrides)]
    if config is not None:
        layers.append(given_by_file(Path(config)))
    resolved = resolve(layers)  # before anything larger is imported: a mistake in a setting is told at once
    from app.render.batch import RunFlags, film

    return film(
        resolved,
        RunFlags(
            resume=resume,
            overwrite=overwrite,
            dry_run=dry_run,
            as_json=as_json,
            json_progress=json_progress,
            export=export,
            accept_licence=tuple(accept_licence or ()),
        ),
    )


def script_among(words: Sequence[str], *, others: Sequence[str]) -> str | None:
    """The one of some words that names a file, if one does; the words are then nothing but this script.

    Args:
        words: prompts, or a script.
        others: what else was given to be filmed.

    Raises:
        UsageMistake: a folder, several files, or a file beside prompts.
    """
    together = " ".join(words)
    if len(words) > 1 and os.path.lexists(together):
        quoted = shlex.quote(one_line(shorten(together, 60)))
        raise UsageMistake(f"{quoted} is a file, and its name has spaces in it. Put the name in quotes.")
    files = [word for word in words if names_a_file(word)]
    if not files:
        return None
    shown = [one_line(shorten(word, 60)) for word in files]
    say = f"--prompt {shlex.quote(shown[0])} to film these words"
    if len(files) > 1:
        raise UsageMistake(f"{shown[0]} and {shown[1]} are both files. Render one script at a time, or say {say}.")
    if len(words) > 1 or others:
        other = one_line(shorten([*(word for word in words if word not in files), *others][0], 40))
        raise UsageMistake(f"{shown[0]} is a script, and {other} is to be filmed too. Give one of them, or say {say}.")
    try:
        folder = Path(files[0]).is_dir()
    except (OSError, ValueError):
        folder = False
    if folder:
        raise UsageMistake(f"{shown[0]} is a folder. Give a script in it, or say {say}.")
    return files[0]


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part prompts from settings: `cache.sink_size=3` and `seed=7` are settings, `x = y` and anything else prompts.

    Raises:
        UsageMistake: a single word with = that is nearly a setting: filming it would be a waste of a night.
    """
    texts: list[str] = []
    overrides: list[str] = []
    names = [*READERS, *ALIASES, "size"]
    for word in words:
        found = _SETTING.match(word)
        if found is None:
            texts.append(word)
        elif "." in found[1] or primary(found[1]) in names or found[1] in GROUPS:
            overrides.append(word)
        elif not re.search(r"\s", word) and (near := get_close_matches(found[1].lower()[:80], names, n=1, cutoff=0.75)):
            shown = printable(shorten(word, 40))
            raise UsageMistake(f"{shown} is no setting. Write {near[0]}=, or --prompt {shown} to film these words.")
        else:
            texts.append(word)
    return texts, overrides
