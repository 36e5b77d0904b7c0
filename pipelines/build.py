"""Where the parts meet: a preset's data and a model's weights become an engine, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from cache import FEATURE_CACHES
from cache.layer_plan import EveryLayer
from cache.quantised import KV_STORAGES
from cache.room import short_of
from cache.storage import Dense
from cache.types import NoisePlan, TokenScorer
from models.autoencoder import Autoencoder
from models.configs import VOCABULARY, TAEHVConfig, TextEncoderConfig, UMT5Config, WanConfig, WanVAEConfig
from models.glossary import GLOSSARY_FILE, Glossary
from models.taehv import AutoencoderTAEHV
from models.text import VOCABULARY_FILE, TextEncoder
from models.umt5 import SHARED_EMBEDDING, UMT5TextEncoder, outline_umt5, require_text_packages
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines.conditioning import Conditioner
from pipelines.drift import NAMES as DRIFT_NAMES
from pipelines.engine import Engine, Policies, Sigmas
from pipelines.presets import PRESETS, Preset, Schedule
from pipelines.presets.plans import make_plan
from pipelines.streaming import Stream
from schedulers.flow_match import FlowMatchSchedule
from schedulers.serial import Serial
from schedulers.unipc import UniPCSchedule
from weights.card import CARD_FILE, read_card
from weights.catalog import ModelSpec, WeightSpec, get_model
from weights.fetch import fetch
from weights.finite import must_be_finite
from weights.load import GENERATOR_KEYS, CheckpointError, check_component, load_component, load_generator
from weights.lora import merge_lora
from weights.memory import must_fit
from weights.plain_files import must_hold_files, read_json
from weights.schema import validate


@dataclass(frozen=True, slots=True)
class Components:
    """A loaded model: its networks, `card`, what it says of itself (card.json), and the paths it was loaded from."""

    name: str
    transformer: CausalWanTransformer3DModel
    autoencoder: Autoencoder
    text_encoder: TextEncoder | UMT5TextEncoder
    card: dict[str, Any]
    sources: tuple[Path, ...] = ()


def load_components(
    model: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    models_dir: str | Path | None = None,
    offline: bool = False,
    licence_accepted: bool | Collection[str] = False,
) -> Components:
    """Load a model by name or from a folder, downloading first what the name stands for and is not here yet.

    A folder is laid out like weights/embedded (transformer/, autoencoder/, text_encoder/, card.json) or like the
    diffusers repositories of Wan-AI (model_index.json, transformer/, vae/, text_encoder/, tokenizer/; card.json if it
    has one).

    Args:
        model: a name of weights/catalog.py, or a folder.
        device: where the networks go.
        dtype: of their parameters. A LoRA is merged in at least float32 before it counts.
        models_dir: folder for downloads; None = the Hugging Face cache.
        offline: never download.
        licence_accepted: whether a person has accepted the licences of this model's weights, or the names of the
            models and weights whose licences they have.

    Raises:
        ValueError: unknown name (the message lists the names), or a package is missing.
        FileNotFoundError: weights are missing and could not be, or were not to be, fetched.
        PermissionError: a licence has to be accepted first.
        CheckpointError: files are damaged or do not fit.
    """
    spec = _stock_layout(get_model(model))
    if spec.tokenizer is not None:
        require_text_packages()  # before a download of many gigabytes
    names = {spec.name, *(part.name for part in spec.weights)} if licence_accepted is True else licence_accepted or ()
    found = {
        part.kind: fetch(part, models_dir, offline=offline, licence_accepted=spec.name in names or part.name in names)
        for part in spec.weights
    }
    card = _card(spec, found["transformer"].parent)  # before anything large is read
    must_fit(spec.name, found.values(), dtype, device)
    transformer = _load_transformer(spec, found, dtype, device)
    if spec.tokenizer is None:
        autoencoder = load_component(AutoencoderTAEHV, found["autoencoder"], dtype, device, schema=TAEHVConfig)
        autoencoder.requires_grad_(False)
        _check_statistics(card, autoencoder.config, found["autoencoder"])
        text_encoder = _load_text_encoder(found["text_encoder"], dtype, device)
        channels, text_dim = autoencoder.config["latent_channels"], text_encoder.config["text_dim"]
    else:
        autoencoder = _load_wan_vae(found["autoencoder"], dtype, device)
        text_encoder = _load_umt5(found, transformer.config["text_len"], dtype, device)
        channels, text_dim = autoencoder.latent_channels, text_encoder.text_dim
    if (channels, text_dim) != (transformer.config["in_channels"], transformer.config["text_dim"]):
        raise CheckpointError(
            f"the parts of {spec.name!r} do not belong together: its transformer reads "
            f"{transformer.config['in_channels']} latent channels and text of width {transformer.config['text_dim']}, "
            f"its autoencoder makes {channels} and its text encoder {text_dim}; take all parts from one model"
        )
    rows = text_encoder.text_len if isinstance(text_encoder, UMT5TextEncoder) else text_encoder.config["text_len"]
    if rows > transformer.config["text_len"]:
        raise CheckpointError(
            f"the parts of {spec.name!r} do not belong together: its text encoder makes {rows} rows of text, its "
            f"transformer reads {transformer.config['text_len']}; take all parts from one model"
        )
    return Components(spec.name, transformer, autoencoder, text_encoder, card, tuple(found.values()))


def choose_device(device: str) -> tuple[str, torch.dtype]:
    """Where networks go and in which precision: auto takes CUDA where there is one, float32 on a CPU, else bfloat16.

    Raises:
        ValueError: unknown, or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}: choose auto, cpu or cuda")
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ValueError("torch finds no CUDA device on this machine: use the device cpu")
    chosen = ("cuda" if cuda else "cpu") if device == "auto" else device
    return chosen, torch.float32 if chosen == "cpu" else torch.bfloat16


def build_engine(preset: Preset, components: Components, *, untrained: bool = False) -> Engine:
    """Policies of a preset over the networks of a model.

    Args:
        preset: what to stream like.
        components: what to stream.
        untrained: allow a model whose card does not list the preset's plan.

    Raises:
        ValueError: the combination cannot work, or the model was not trained for it; the reason is in the text.
    """
    plans = components.card.get("plans")
    if plans is not None and preset.plan not in plans and not untrained:
        raise ValueError(
            f"model {components.name!r} was not trained for preset {preset.name!r} (plan {preset.plan!r}; it knows "
            f"{', '.join(plans)}): choose another, or pass --untrained to see what happens"
        )
    return Engine(
        transformer=components.transformer,
        conditioner=Conditioner(components.text_encoder),
        policies=make_policies(preset),
        autoencoder=components.autoencoder,
        fps=int(components.card.get("fps", 16)),
        drift_spreads=_spreads(components.card),
        storage=KV_STORAGES.get(preset.kv_cache_dtype, Dense),
    )


def build_stream(
    preset: Preset,
    components: Components,
    *,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    untrained: bool = False,
    video: bool = False,
) -> Stream:
    """A film about to begin.

    Args:
        preset: what to stream like.
        components: what to stream.
        height: of the picture in pixels; the model's own if None.
        width: of the picture in pixels; the model's own if None.
        seed: of all its noise.
        untrained: allow a preset, or a size, that the model's card does not list.
        video: it is made of a video (pipelines/video.py).

    Raises:
        ValueError: as `build_engine`, or a size the model cannot make.
    """
    engine = build_engine(preset, components, untrained=untrained)
    sizes: list[tuple[int, int]] = [(int(h), int(w)) for h, w in components.card["sizes"]]
    height = sizes[0][0] if height is None else height
    width = sizes[0][1] if width is None else width
    if (height, width) not in sizes and not untrained:
        known = ", ".join(f"{w}x{h}" for h, w in sizes)
        raise ValueError(
            f"model {components.name!r} makes {known}, not {width}x{height}: choose one of these sizes, or pass "
            "--untrained to see what happens"
        )
    scale = components.autoencoder.spatial_scale
    if height % scale or width % scale or min(height, width) < scale:
        raise ValueError(f"a picture of {width}x{height} does not divide by {scale}: use multiples of {scale}")
    return Stream(engine, height=height // scale, width=width // scale, seed=seed, video=video)


def make_policies(preset: Preset) -> Policies:
    """The preset's policies with its step list looked up; refuses pairs that cannot work together."""
    recipe = preset.schedule
    schedule, levels = make_schedule(recipe)
    plan = make_plan(preset, levels)
    check_pair(plan, preset)
    features = FEATURE_CACHES.get(preset.feature_cache)
    if features is not None and not isinstance(plan, Serial):
        raise ValueError(
            f"preset {preset.name!r} has chunks at several noise levels in one pass, and a feature cache serves one: "
            "leave feature_cache out, or choose a preset with the plan serial"
        )
    return Policies(
        plan=plan,
        cache=preset.cache,
        window=preset.window,
        position=preset.position,
        switch=preset.switch,
        schedule=schedule,
        clean_level=recipe.clean_level,
        guidance_scale=recipe.guidance_scale,
        guidance=recipe.guidance,
        guidance_delta=recipe.guidance_delta,
        video=preset.video,
        layers=EveryLayer() if features is None else features(plan.levels, preset.chunk),
    )


def make_schedule(recipe: Schedule) -> tuple[Sigmas, tuple[float, ...]]:
    """The table behind the levels, and the levels; ValueError for steps that the table does not have."""
    table = FlowMatchSchedule(shift=recipe.shift)
    listed = table.without_zero(recipe.denoising_step_list)
    if recipe.step != "unipc":
        return table, tuple(table.warp(listed) if recipe.warp else listed)
    even = [1000 * (len(listed) - index) / len(listed) for index in range(len(listed))]
    if any(abs(step - wanted) > 0.5 for step, wanted in zip(listed, even, strict=True)):
        raise ValueError(
            f"unipc spaces its steps evenly and cannot take {', '.join(f'{step:g}' for step in listed)}: "
            "give num_inference_steps instead of denoising_step_list, or the step euler"
        )
    solver = UniPCSchedule(steps=len(listed), shift=recipe.shift)
    return solver, solver.levels


def check_pair(plan: NoisePlan, preset: Preset) -> None:
    """Raise ValueError unless the memory gives what the plan's passes need, and a chunk fits (architecture F1)."""
    cache = preset.cache
    if cache.deps not in plan.needs:
        raise ValueError(
            f"preset {preset.name!r} pairs a noise plan that needs {' or '.join(sorted(plan.needs))} memory with a "
            f"cache policy that keeps {cache.deps} memory: a pass would read keys that do not exist yet; choose a "
            "cache policy of that kind"
        )
    lacks = short_of(cache.capacity, plan.chunk, cache.protected)
    if cache.capacity and lacks:
        raise ValueError(
            f"preset {preset.name!r} has a window of {cache.capacity} latent frames, too small for a sink of "
            f"{cache.protected} and a chunk of {plan.chunk}: make the window at least {cache.capacity + lacks}"
        )
    if isinstance(cache.scorer, TokenScorer) and cache.scorer.keep_q < plan.width:
        raise ValueError(
            f"preset {preset.name!r} judges its memory by the last {cache.scorer.keep_q} latent frames, fewer than the "
            f"{plan.width} of a pass: make them (recent) at least {plan.width}, or the chunk shorter"
        )
    if preset.switch.replays > cache.capacity:
        raise ValueError(
            f"preset {preset.name!r} replays {preset.switch.replays} latent frames on a new prompt, but its memory "
            f"holds {cache.capacity}: make the replay's window at most {cache.capacity}"
        )
    if preset.switch.replays and plan.lanes > 1:
        raise ValueError(
            f"preset {preset.name!r} has a memory for each of {plan.lanes} noise levels, and a replay writes clean "
            "keys only: choose the switch policy keep"
        )


def _spreads(card: dict[str, Any]) -> tuple[float, ...] | None:
    spreads = card.get("drift_spreads")
    return None if spreads is None else tuple(float(value) for value in spreads)


def _stock_layout(spec: ModelSpec) -> ModelSpec:
    """A local model whose folder is a diffusers pipeline: the same spec with the parts under their names there."""
    root = Path(spec.transformer.file).parent
    if spec.transformer.where != "local" or not (root / "model_index.json").is_file():
        return spec
    licence = spec.transformer.licence
    return replace(
        spec,
        autoencoder=WeightSpec("vae", "autoencoder", str(root / "vae"), licence, "local"),
        tokenizer=WeightSpec("tokenizer", "tokenizer", str(root / "tokenizer"), licence, "local"),
    )


def _load_transformer(
    spec: ModelSpec, found: Mapping[str, Path], dtype: torch.dtype, device: str
) -> CausalWanTransformer3DModel:
    """A released generator file or a diffusers folder, with the model's LoRA merged."""
    path, lora = found["transformer"], found.get("lora")
    # Rounding before the merge as well as after would lose much of a small update.
    working = dtype if lora is None else torch.promote_types(dtype, torch.float32)
    if path.is_file():
        keys = spec.transformer.key or GENERATOR_KEYS
        model = load_generator(
            CausalWanTransformer3DModel, path, spec.config, keys=keys, dtype=working, device=device, schema=WanConfig
        )
    else:
        model = load_component(CausalWanTransformer3DModel, path, working, device, schema=WanConfig)
    model.requires_grad_(False)
    if lora is not None:
        merge_lora(model, lora, alpha=spec.lora_alpha)
        kept = set(model._keep_in_fp32_modules or ())  # pyright: ignore[reportPrivateUsage]
        for name, parameter in model.named_parameters():
            if not kept & set(name.split(".")):
                parameter.data = parameter.data.to(dtype)
    return model


def _load_wan_vae(folder: Path, dtype: torch.dtype, device: str) -> WanVAEStream:
    """diffusers' autoencoder as a stream."""
    vae = load_component(AutoencoderKLWan, folder, dtype, device, schema=WanVAEConfig).requires_grad_(False)
    try:
        return WanVAEStream(vae)
    except ValueError as error:  # models/ knows nothing of files
        raise CheckpointError(f"{folder / 'config.json'}: {error} Take another autoencoder.") from error


def _load_text_encoder(folder: Path, dtype: torch.dtype, device: str) -> TextEncoder:
    """The small encoder with its vocabulary and its glossary, files beside the weights."""
    path = folder / VOCABULARY_FILE
    words = validate(VOCABULARY, read_json(path, "it is saved beside the text encoder's weights, restore it"), path)
    encoder = load_component(TextEncoder, folder, dtype, device, schema=TextEncoderConfig).requires_grad_(False)
    try:
        encoder.set_words(words)
    except ValueError as error:
        raise CheckpointError(f"{path} is not this encoder's vocabulary ({error}); restore the file.") from error
    path = folder / GLOSSARY_FILE
    if path.exists():  # other small models may have none
        read = read_json(path, "restore or remove it")
        try:
            encoder.glossary = Glossary.of(read)
        except ValueError as error:
            raise CheckpointError(f"{path} is no glossary ({error}); restore or remove it.") from error
    return encoder


def _load_umt5(found: Mapping[str, Path], text_len: int, dtype: torch.dtype, device: str) -> UMT5TextEncoder:
    """transformers' encoder with its tokenizer; what transformers would build for hours is refused before."""
    folder, tokenizer = found["text_encoder"], found["tokenizer"]
    for each in (folder, tokenizer):
        must_hold_files(each)
    check_component(outline_umt5, folder, UMT5Config, twins=SHARED_EMBEDDING)
    try:
        encoder = UMT5TextEncoder.from_folders(folder, tokenizer, text_len=text_len, dtype=dtype, device=device)
    except ValueError as error:  # models/ knows nothing of checkpoints
        raise CheckpointError(str(error)) from error
    must_be_finite(encoder.named_parameters(), folder)
    return encoder


def _check_statistics(card: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """The autoencoder must normalise latents as the transformer was trained to see them, which the card repeats."""
    for name in ("latents_mean", "latents_std"):
        if name in card and list(card[name]) != list(config[name] or ()):
            raise CheckpointError(
                f"{folder / 'config.json'} and {CARD_FILE} beside its folder disagree about {name}; take both from one "
                "model."
            )


def _card(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """card.json; for released weights, which have none, what is known of them.

    Those are trained for the plans of the presets that are named after them. Without such a preset a model is the
    bidirectional base, trained for none.
    """
    path = folder / CARD_FILE
    if spec.tokenizer is None or (spec.transformer.where == "local" and (path.exists() or path.is_symlink())):
        card = read_card(folder)
        spreads = card.get("drift_spreads")
        if spreads is not None and len(spreads) != len(DRIFT_NAMES):
            raise CheckpointError(
                f"{path}: drift_spreads has {len(spreads)} values, one for each of {', '.join(DRIFT_NAMES)} belongs "
                "there; restore the file."
            )
        return card
    plans = sorted({preset.plan for preset in PRESETS.values() if preset.model == spec.name})
    return {"name": spec.name, "sizes": [list(spec.size)], "plans": plans or ["bidirectional"], "fps": spec.fps}
