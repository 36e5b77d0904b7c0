"""A model's networks: looked up, fetched, checked against each other and loaded, in whatever form they lie there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from models.autoencoder import Autoencoder
from models.configs import VOCABULARY, TAEHVConfig, TextEncoderConfig, UMT5Config, WanConfig, WanVAEConfig
from models.glossary import GLOSSARY_FILE, Glossary
from models.taehv import AutoencoderTAEHV
from models.text import VOCABULARY_FILE, TextEncoder
from models.umt5 import SHARED_EMBEDDING, UMT5TextEncoder, load_tokenizer, outline_umt5, require_text_packages
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines.drift import NAMES as DRIFT_NAMES
from pipelines.fit import hold
from pipelines.memory_plan import MemoryPlan
from pipelines.presets import PRESETS
from weights.card import CARD_FILE, read_card
from weights.catalog import TINY, ModelSpec, WeightSpec
from weights.fetch import fetch
from weights.find import get_model
from weights.finite import must_be_finite
from weights.load import (
    GENERATOR_KEYS,
    CheckpointError,
    check_component,
    load_component,
    load_file,
    read_config,
    tensors_of,
)
from weights.lora import merge_lora
from weights.memory import must_fit
from weights.plain_files import must_be_a_file, must_hold_files, read_json
from weights.schema import validate
from weights.shapes import kind_of, taehv_config, umt5_config, wan_config, wan_vae_config
from weights.spellings import umt5_to_transformers, vae_to_diffusers

EMA = {True: ("generator_ema", "ema"), False: ("generator", "model", "state_dict")}
"""Entries of a training script's file, by whether the averaged weights are asked for."""
DEVICES = ("auto", "cpu", "cuda", "mps")
DECODERS = ("auto", "full", "tiny")
"""Which autoencoder a model is played with; any other word is a file or folder with one."""


@dataclass(frozen=True, slots=True)
class Components:
    """A loaded model: its networks, `card`, what it says of itself (card.json), the paths it was loaded from, and the
    folder of its transformer, where its profile lies (pipelines/feature_profile.py)."""

    name: str
    transformer: CausalWanTransformer3DModel
    autoencoder: Autoencoder
    text_encoder: TextEncoder | UMT5TextEncoder
    card: dict[str, Any]
    sources: tuple[Path, ...] = ()
    folder: Path | None = None


def load_components(
    model: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    models_dir: str | Path | None = None,
    offline: bool = False,
    licence_accepted: bool | Collection[str] = False,
    vae: str = "auto",
    loras: Sequence[tuple[str, float]] = (),
    ema: bool | None = None,
    plan: MemoryPlan | None = None,
) -> Components:
    """Load a model by name or from this disk, downloading first what the name stands for and is not here yet.

    A folder is laid out like weights/embedded (transformer/, autoencoder/, text_encoder/, card.json), like the
    diffusers repositories of Wan-AI (model_index.json, transformer/, vae/, text_encoder/, tokenizer/; card.json if it
    has one) or like Wan-AI's original ones; a file holds a transformer (weights/local.py).

    Args:
        model: a name of weights/catalog.py, a folder or a file.
        device: where the networks go.
        dtype: of their parameters. A LoRA is merged in at least float32 before it counts.
        models_dir: folder for downloads; None = the Hugging Face cache.
        offline: never download.
        licence_accepted: whether a person has accepted the licences of this model's weights, or the names of the
            models and weights whose licences they have.
        vae: which autoencoder: full, tiny (taew2_1 or taew2_2), auto (the model's own), or a file or folder with one.
        loras: files and strengths, added to the transformer in this order.
        ema: of a training script's file the averaged weights (True) or the others; None = the release's own choice.
        plan: how the model is held on the device; None = all of it, as it is.

    Raises:
        ValueError: unknown name (the message lists the names), or a package is missing.
        FileNotFoundError: weights are missing and could not be, or were not to be, fetched.
        PermissionError: a licence has to be accepted first.
        CheckpointError: files are damaged or do not fit.
    """
    spec = _with_autoencoder(_stock_layout(get_model(model)), vae)
    if spec.tokenizer is not None:
        require_text_packages()  # before a download of many gigabytes
    extra = _named(loras)
    found = _fetched(spec, spec.weights, models_dir, offline, licence_accepted)
    card = _card(spec, found["transformer"].parent)  # before anything large is read
    must_fit(spec.name, found.values(), dtype, device if plan is None else "cpu")  # a plan was fitted to the device
    plan = plan or MemoryPlan()
    streamed, aside = plan.layers == "streamed", plan.text == "aside"
    transformer = _load_transformer(spec, found, dtype, "cpu" if streamed else device, extra, ema)
    hold(transformer, plan, device, dtype)
    autoencoder = _load_autoencoder(spec, found["autoencoder"], dtype, device)
    if isinstance(autoencoder, AutoencoderTAEHV):
        autoencoder.latents_at_once = int(plan.work == "sliced")
        channels: int = autoencoder.config["latent_channels"]
    else:
        channels = autoencoder.latent_channels
    if spec.tokenizer is None:
        if isinstance(autoencoder, AutoencoderTAEHV):
            _check_statistics(card, autoencoder.config, found["autoencoder"])
        text_encoder = _load_text_encoder(found["text_encoder"], dtype, "cpu" if aside else device)
        text_dim: int = text_encoder.config["text_dim"]
    else:
        text_encoder = _load_umt5(found, transformer.config["text_len"], dtype, "cpu" if aside else device)
        text_dim = text_encoder.text_dim
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
    sources = (*found.values(), *(file for file, _ in extra))
    return Components(spec.name, transformer, autoencoder, text_encoder, card, sources, found["transformer"].parent)


def load_transformer(
    model: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    models_dir: str | Path | None = None,
    offline: bool = False,
    licence_accepted: bool | Collection[str] = False,
    loras: Sequence[tuple[str, float]] = (),
    ema: bool | None = None,
) -> CausalWanTransformer3DModel:
    """The transformer alone, for a rank that makes no pictures; arguments and errors as `load_components`."""
    spec, extra = _stock_layout(get_model(model)), _named(loras)
    needed = [part for part in spec.weights if part.kind in ("transformer", "lora")]
    found = _fetched(spec, needed, models_dir, offline, licence_accepted)
    must_fit(spec.name, found.values(), dtype, device)
    return _load_transformer(spec, found, dtype, device, extra, ema)


def _named(loras: Sequence[tuple[str, float]]) -> list[tuple[Path, float]]:
    extra = [(Path(file).expanduser(), strength) for file, strength in loras]
    for file, _ in extra:
        must_be_a_file(file, "check the path of the LoRA")
    return extra


def _fetched(
    spec: ModelSpec,
    parts: Collection[WeightSpec],
    models_dir: str | Path | None,
    offline: bool,
    licence_accepted: bool | Collection[str],
) -> dict[str, Path]:
    """Where parts of a model lie, by their kind."""
    names = {spec.name, *(part.name for part in spec.weights)} if licence_accepted is True else licence_accepted or ()
    return {
        part.kind: fetch(part, models_dir, offline=offline, licence_accepted=spec.name in names or part.name in names)
        for part in parts
    }


def choose_device(device: str) -> tuple[str, torch.dtype]:
    """Where networks go and in which precision: float32 on a CPU, else bfloat16.

    auto takes CUDA where there is one, and else the CPU. "mps", Apple's GPU, is taken when it is asked for by
    name: a device of its kind has been played in the tests, and none has been seen.

    Raises:
        ValueError: unknown, or not there.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ValueError("torch finds no CUDA device on this machine: use the device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("torch finds no Apple GPU (mps) on this machine: use the device cpu")
    chosen = ("cuda" if cuda else "cpu") if device == "auto" else device
    return chosen, torch.float32 if chosen == "cpu" else torch.bfloat16


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


def _with_autoencoder(spec: ModelSpec, vae: str) -> ModelSpec:
    """The model with the autoencoder that is asked for; ValueError for one that there is not."""
    if vae in ("auto", "full"):
        return spec
    if vae != "tiny":
        path = Path(vae).expanduser()
        if not path.exists():
            raise ValueError(f"no autoencoder {vae!r}: choose auto, full or tiny, or give a file or folder with one")
        return replace(spec, autoencoder=WeightSpec(path.stem, "autoencoder", str(path), "the owner's", "local"))
    if spec.tokenizer is None:
        return spec  # a small model, whose own is as tiny
    embedding = spec.config.get("in_channels")
    if embedding is None:
        embedding = _config_of(spec, Path(spec.transformer.file))["in_channels"]
    if embedding not in TINY:
        raise ValueError(f"there is no tiny autoencoder for latents of {embedding} channels: use --vae full")
    return replace(spec, autoencoder=TINY[embedding])


def _config_of(spec: ModelSpec, path: Path, ema: bool | None = None) -> Mapping[str, Any]:
    """The transformer's config: the catalogue's, its folder's, or the one that its shapes tell."""
    if spec.config:
        return spec.config
    if path.is_dir() and not spec.transformer.bare:
        return read_config(path)
    keys = (spec.transformer.key or GENERATOR_KEYS) if ema is None else EMA[ema]
    return wan_config(_shapes(path, keys), path)


def _shapes(path: Path, keys: tuple[str, ...] = GENERATOR_KEYS) -> dict[str, tuple[int, ...]]:
    return {name: stored.shape for name, stored in tensors_of(path, keys).items()}


def _load_transformer(
    spec: ModelSpec,
    found: Mapping[str, Path],
    dtype: torch.dtype,
    device: str,
    extra: Sequence[tuple[Path, float]],
    ema: bool | None,
) -> CausalWanTransformer3DModel:
    """A released generator file, a folder or a file of this disk, with LoRAs merged: the model's own first."""
    path = found["transformer"]
    loras = [(found["lora"], 1.0, spec.lora_alpha)] if "lora" in found else []
    loras += [(file, strength, None) for file, strength in extra]
    # Rounding before the merge as well as after would lose much of a small update.
    working = torch.promote_types(dtype, torch.float32) if loras else dtype
    if path.is_dir() and not spec.transformer.bare:
        model = load_component(CausalWanTransformer3DModel, path, working, device, schema=WanConfig)
    else:
        keys = (spec.transformer.key or GENERATOR_KEYS) if ema is None else EMA[ema]
        config = _config_of(spec, path, ema)
        model = load_file(
            CausalWanTransformer3DModel, path, config, keys=keys, dtype=working, device=device, schema=WanConfig
        )
    model.requires_grad_(False)
    for file, strength, alpha in loras:
        merge_lora(model, file, alpha=alpha, weight=strength)
    if loras:
        kept = set(model._keep_in_fp32_modules or ())  # pyright: ignore[reportPrivateUsage]
        for name, parameter in model.named_parameters():
            if not kept & set(name.split(".")):
                parameter.data = parameter.data.to(dtype)
    return model


def _load_autoencoder(spec: ModelSpec, path: Path, dtype: torch.dtype, device: str) -> AutoencoderTAEHV | WanVAEStream:
    """Wan's or a tiny one: a folder says which by its config, a file by its names."""
    if path.is_file():
        shapes = _shapes(path)
        if kind_of(shapes) == "tiny_autoencoder":
            tiny = load_file(
                AutoencoderTAEHV, path, taehv_config(shapes, path), dtype=dtype, device=device, schema=TAEHVConfig
            )
            return tiny.requires_grad_(False)
        config = wan_vae_config(vae_to_diffusers(shapes), path)
        vae = load_file(
            AutoencoderKLWan, path, config, dtype=dtype, device=device, schema=WanVAEConfig, spell=vae_to_diffusers
        )
    elif spec.tokenizer is None:
        return load_component(AutoencoderTAEHV, path, dtype, device, schema=TAEHVConfig).requires_grad_(False)
    else:
        vae = load_component(AutoencoderKLWan, path, dtype, device, schema=WanVAEConfig)
    try:
        return WanVAEStream(vae.requires_grad_(False))
    except ValueError as error:  # models/ knows nothing of files
        raise CheckpointError(f"{path / 'config.json'}: {error} Take another autoencoder.") from error


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
    path, tokenizer = found["text_encoder"], found["tokenizer"]
    for each in (path, tokenizer):
        if each.is_dir():
            must_hold_files(each)
    try:
        if path.is_file():
            words = load_tokenizer(tokenizer)
            config = umt5_config(umt5_to_transformers(_shapes(path)), path)
            model = load_file(
                outline_umt5,
                path,
                config,
                dtype=dtype,
                device=device,
                schema=UMT5Config,
                spell=umt5_to_transformers,
                twins=SHARED_EMBEDDING,
            )
            return UMT5TextEncoder(model, words, text_len=text_len)
        check_component(outline_umt5, path, UMT5Config, twins=SHARED_EMBEDDING)
        encoder = UMT5TextEncoder.from_folders(path, tokenizer, text_len=text_len, dtype=dtype, device=device)
    except CheckpointError:
        raise
    except ValueError as error:  # models/ knows nothing of checkpoints
        raise CheckpointError(str(error)) from error
    must_be_finite(encoder.named_parameters(), path)
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
    told: dict[str, Any] = {"name": spec.name, "sizes": [list(spec.size)], "fps": spec.fps}
    alone = spec.transformer.where == "local" and (spec.transformer.bare or Path(spec.transformer.file).is_file())
    if alone and not plans:
        return told  # nothing in a file says what it was distilled for; whoever gives it knows
    return told | {"plans": plans or ["bidirectional"]}
