"""The table of settings: one entry each, and nothing else has to be told of a setting but the code that uses it.

A field has the setting's name and type, its entry everything else (app/config/setting.py). From here come the flags of
`rivulet render` and its help, config files, render jobs, messages and controls of live films, and docs/settings.md.
"""

from collections.abc import Mapping
from functools import partial

from app.config import readers as read
from app.config.file_settings import Files
from app.config.lengths import FASTEST_FPS
from app.config.live_settings import Live
from app.config.readers import LARGEST_SIDE, MOST_RANKS, MOST_THREADS, SEED_LIMIT, Reader, Whole
from app.config.run_flags import Run
from app.config.setting import Control, Setting, Wire, entries_of, setting
from app.config.video_settings import Video
from cache import FEATURE_CACHES
from pipelines.presets import PRESETS
from pipelines.presets.base import GUIDANCES
from pipelines.presets.knobs import LARGEST_CHUNK, LARGEST_WINDOW, MOST_GUIDANCE, MOST_SHIFT, MOST_STEPS
from pipelines.types import TRANSITIONS

EVERYWHERE = ("live", "render", "compare")
LATENT = "latent frames"

_shown = partial(setting, group="What to show", replay="script")
_length = partial(setting, group="The film", replay="script")
_picture = partial(setting, group="Picture", usual="the model's", replay="film")
_encoded = partial(setting, group="Picture", section="output", replay="file", job="settings")
_model = partial(setting, group="Model", replay="film")
_schedule = partial(setting, None, group="Denoising", usual="the preset's", replay="film", job="settings")
_memory = partial(setting, None, group="Memory", usual="the preset's", section="cache", replay="film", job="settings")
_here = partial(setting, group="This machine")
_run = partial(setting, group="This run")


class Film:
    """What decides a film or its file. None is the model's, the preset's or the script's own.

    `fps` is a fraction as text, `duration` as written; `num_frames` counts pixel, `num_output_frames` latent frames.
    """

    prompt: tuple[str, ...] = _shown((), "A prompt, as it stands; may be repeated.", read.prompts, job="prompt")
    script: str | None = _shown(
        None,
        "Shot list, prompts a line, table, subtitles, ... (docs/render.md).",
        read.text("the name of a script file"),
        written="FILE",
        job="script",
    )
    prompts: str | None = _shown(
        None,
        "A film a line; --output is then a folder.",
        read.text("the name of a file with prompts"),
        written="FILE",
        aliases=("data_path", "prompt_file_path", "prompt_path", "extended_prompt_path"),
    )
    image: str | None = setting(
        None,
        "A picture that the film begins with and goes on from.",
        read.text("the name of a picture"),
        group="What to show",
        written="FILE",
        aliases=("image_path",),
        replay="film",
    )
    extend: str | None = setting(
        None,
        "A clip whose last pictures the film begins with and goes on from.",
        read.text("the name of a video file"),
        group="What to show",
        written="FILE",
        replay="film",
    )
    reference: str | None = setting(
        None,
        "A picture that the film does not show and takes its things from.",
        read.text("the name of a picture"),
        group="What to show",
        written="FILE",
        replay="film",
    )
    switch_frame_indices: tuple[int, ...] | None = _shown(
        None, "Latent frames at which the prompts change.", read.places, written="40,80", unit=LATENT
    )
    preset: str = _model(
        "embedded",
        "Streaming system; `rivulet presets` lists them.",
        read.one_of(tuple(PRESETS), "preset"),
        written="NAME",
        first=True,
        job="preset",
    )
    model: str | None = _model(
        None,
        "Name, folder or file of a model.",
        read.text("a name, a folder or a file"),
        written="NAME|PATH",
        usual="the preset's",
        aliases=("model_path",),
        first=True,
        job="model",
    )
    lora: tuple[str, ...] = _model(
        (), "A LoRA and how much of it, 1 as trained; may be repeated.", read.loras, written="FILE[:STRENGTH]"
    )
    vae: str = _model(
        "auto",
        "Autoencoder: full, tiny (faster and smaller), auto, or a file or folder with one.",
        read.text("auto, full, tiny, or a file"),
        written="WHICH",
    )
    vram: str | None = _model(
        None,
        "Fit into so much memory of the device, auto: what is free; or what to trade for it, some of "
        "text+int8+tiny+fp8+streamed+window.",
        read.memory,
        written="12GB|auto|PLAN",
        usual="no limit",
    )
    use_ema: bool | None = _model(
        None, "Of a training script's file the averaged weights, or the others.", read.truth, usual="the release's"
    )
    attention: str = _model(
        "auto", "Attention kernel (`rivulet bench attention`).", read.one_of(read.ATTENTION, "kernel"), written="KERNEL"
    )
    untrained: bool = _model(False, "Allow a preset or size the model was not trained for.", read.truth, job="settings")
    device: str = _here(
        "auto", "auto, cpu, cuda or mps.", read.one_of(read.DEVICES, "device"), written="DEVICE", replay="machine"
    )
    threads: int | None = _here(
        None, "CPU threads.", Whole(1, MOST_THREADS), usual="all cores", parser_bounds=True, replay="machine"
    )
    parallel: str | None = _here(
        None,
        "Spread the film over ranks: levels=2, layers=2, ulysses=2, clips=2, cascade=2, auto=2 or single.",
        read.plan_of_ranks,
        written="PLAN=N",
        usual="one process",
        replay="machine",
    )
    gpus: int | None = _here(
        None, "Start so many ranks here, one a GPU or sharing the CPU.", Whole(1, MOST_RANKS), replay="place"
    )
    models_dir: str | None = _here(
        None,
        "Where downloads are.",
        read.text("a folder"),
        written="FOLDER",
        usual="the Hugging Face cache",
        replay="place",
    )
    offline: bool = _here(False, "Download nothing.", read.truth, replay="place")
    seed: int = setting(
        42,
        "The same seed, the same film; -1 draws one.",
        Whole(-1, SEED_LIMIT - 1, f"0 to {SEED_LIMIT - 1}, or -1 to draw one"),
        group="The film",
        aliases=("base_seed",),
        first=True,
        replay="film",
        job="seed",
    )
    seed_mode: str = _length(
        "increment",
        "Of several films: fixed, increment or random.",
        read.one_of(read.SEED_MODES, "seed mode"),
        written="MODE",
    )
    duration: str | None = _length(
        None,
        "20s, 0:20, 1m30s, 320f (frames), 32l (latent frames) or 11c (chunks).",
        read.duration,
        written="TIME",
        usual="the script's, or 20s",
        first=True,
        job="seconds",
    )
    num_frames: int | None = _length(
        None, "Length in frames instead.", read.count_of("f"), unit="frames", aliases=("target_video_length",)
    )
    num_output_frames: int | None = _length(None, "Length in latent frames instead.", read.count_of("l"), unit=LATENT)
    height: int | None = _picture(
        None, "Picture height.", Whole(8, LARGEST_SIDE), unit="pixels", aliases=("target_height",)
    )
    width: int | None = _picture(
        None, "Picture width.", Whole(8, LARGEST_SIDE), unit="pixels", aliases=("target_width",)
    )
    fps: str | None = _encoded(
        None,
        "Frame rate; another than the model's own plays faster or slower.",
        read.frame_rate,
        written="RATE",
        unit="frames a second",
        range=(1, FASTEST_FPS),
        usual="the model's",
    )
    scale: int = _encoded(
        0,
        "Enlarge the film; 0 brings small ones near 384 pixels, 1 leaves them.",
        Whole(0, 16),
        parser_bounds=True,
        control=Control("Enlarge", "Every pixel becomes so many squared, for viewing", ("render",)),
    )
    crf: int = _encoded(18, "H.264 quality, less is better.", Whole(0, 51), parser_bounds=True)
    encoder_preset: str = _encoded(
        read.ENCODER_PRESETS[2],
        "x264's preset: ultrafast takes a third of the time, slower ones smaller files.",
        read.one_of(read.ENCODER_PRESETS, "x264 preset"),
        written="NAME",
    )
    segment_chunks: int | None = _run(
        None,
        "What lies between two snapshots: what a kill can cost.",
        Whole(1, 100_000),
        unit="chunks",
        usual="24",
        section="output",
        replay="file",
        job="settings",
    )
    num_inference_steps: int | None = _schedule(
        "Denoising steps; fewer are faster and coarser.",
        Whole(1, MOST_STEPS),
        unit="steps",
        aliases=("steps", "step", "infer_steps"),
        first=True,
        wire=Wire("steps", 1, 16),
        control=Control("Steps", "More steps: finer and slower", EVERYWHERE, slider=(1, 8, 1)),
    )
    denoising_step_list: tuple[float, ...] | None = _schedule(
        "These steps instead: timesteps up to 1000 that fall.", read.steps, written="1000,750"
    )
    shift: float | None = _schedule(
        "Of the schedule; more favours high noise.",
        read.number,
        range=(0, MOST_SHIFT),
        above=True,
        aliases=("timestep_shift",),
    )
    warp_denoising_step: bool | None = _schedule("Bend the steps by the shift.", read.truth)
    guidance_scale: float | None = _schedule(
        "How hard to follow the prompt; 1 is off.",
        read.number,
        range=(0, MOST_GUIDANCE),
        aliases=("cfg", "sample_guide_scale"),
        first=True,
        wire=Wire("guidance_scale", 0, 30),
        control=Control("Guidance", "How closely the words are followed; above 1 every step costs two passes"),
    )
    guidance_type: str | None = _schedule(
        "Of a video: what its passes are pushed away from; full, residual-self or residual-once.",
        read.one_of(GUIDANCES, "guidance"),
        written="KIND",
        aliases=("cfg_type",),
    )
    similarity_filter: float | None = _schedule(
        "Of a video: the change below which a chunk may be left out; 0 makes all of them.",
        read.number,
        range=(0, 1),
        wire=Wire("similarity_filter", 0, 1),
        control=Control(
            "Still",
            "Of a camera: the change below which a chunk is left out and the last picture stands; 0 makes every chunk",
            ("live",),
            slider=(0, 0.1, 0.01),
        ),
    )
    anchored_noise: bool | None = _schedule(
        "Of a video: every chunk gets the same noise, so that a still one gives a still film.", read.truth
    )
    local_attn_size: int | None = _memory(
        "Window: what is remembered, sink and chunk included.",
        Whole(-1, LARGEST_WINDOW, "latent frames, for example 12"),
        unit=LATENT,
        range=(1, LARGEST_WINDOW),
        aliases=("window",),
        wire=Wire("window", 1, 240, anew=True),
        control=Control(
            "Window",
            "Latent frames that are remembered: more is steadier and slower",
            EVERYWHERE,
            slider=(3, 48, 1),
            card="memory",
        ),
    )
    sink_size: int | None = _memory(
        "First frames that are never forgotten.",
        Whole(0, LARGEST_WINDOW),
        unit=LATENT,
        aliases=("sink",),
        wire=Wire("sink", 0, 240, anew=True),
        control=Control(
            "Sink",
            "First frames that are never forgotten: they hold the look",
            EVERYWHERE,
            slider=(0, 12, 1),
            card="memory",
        ),
    )
    num_frame_per_block: int | None = _memory(
        "Frames a chunk.", Whole(1, LARGEST_CHUNK), unit=LATENT, aliases=("chunk",)
    )
    independent_first_frame: bool | None = _memory("Begin with a chunk of one.", read.truth)
    kv_cache_attention_bias: float | None = _memory(
        "How much past frames count; less repeats less, 1 changes nothing.", read.number, range=(0, 1), above=True
    )
    feature_cache: str | None = _schedule(
        "Use again what layers computed before; `rivulet bench cache` tells the price.",
        read.one_of(("none", *FEATURE_CACHES), "feature cache"),
        written="NAME",
    )
    kv_cache_dtype: str | None = _memory(
        "Remember in fewer bits: half or a quarter of the memory, slower.",
        read.one_of(("auto", "int8", "int4"), "precision of the memory"),
        written="NAME",
    )
    cascade: int | None = _schedule(
        "Chunks on their way at once, each begun on half-denoised keys of the one before.",
        Whole(1, MOST_STEPS + 1),
        unit="chunks",
    )
    dual_scope: str | None = _memory(
        "Of a joint window: neighbours that a frame sees on each side, and frames spread over it; none: it sees all.",
        read.scope,
        written="HALO+SPREAD",
    )
    recache_on_switch: bool | None = _memory("Replay the memory under a new prompt.", read.truth)
    global_sink: bool | None = _memory("Keep the sink as it is in a replay.", read.truth)
    context_noise: float | None = _memory(
        "Timestep of the remembered frames; 0 is clean.", read.number, range=(0, 999), aliases=("clean_level",)
    )
    transition: str = _shown(
        "recache",
        "How a prompt takes over: recache, soft, cut or keep.",
        read.one_of(TRANSITIONS, "transition"),
        written="HOW",
        first=True,
        job="transition",
    )
    transition_chunks: int | None = _shown(
        None,
        "Length of a soft transition.",
        Whole(1, 10_000, "1 or more, up to 10000"),
        unit="chunks",
        usual="4",
        job="transition_chunks",
    )


class Spellings:
    """Other ways to say some of them, wherever they can be said."""

    size: str | None = _picture(
        None,
        "Height and width in one.",
        read.size,
        written="WIDTHxHEIGHT",
        first=True,
        control=Control("Size", "Width x height, for example 96x96; the model's own where it is empty", ("render",)),
        job="size",
    )


TABLE: Mapping[str, Setting] = {
    **entries_of(Film, "film"),
    **entries_of(Files, "film"),
    **entries_of(Video, "video"),
    **entries_of(Spellings, "spelling"),
    **entries_of(Run, "run"),
    **entries_of(Live, "live"),
}
"""Every entry by its name."""
READERS: Mapping[str, Reader] = {
    entry.name: entry.reader for entry in TABLE.values() if entry.kind in ("film", "video") and entry.reader is not None
}
"""The reader of every setting; `size` is read too, as height and width."""
OF_VIDEO = frozenset(entry.name for entry in TABLE.values() if entry.kind == "video")
"""Settings that only a film made of a video has."""
FLAGS_ONLY = tuple(entry.name for entry in TABLE.values() if entry.kind == "run")
"""Flags that are no settings."""
WIRED: tuple[tuple[Setting, Wire], ...] = tuple((entry, entry.wire) for entry in TABLE.values() if entry.wire)
"""What changes while a film plays."""
