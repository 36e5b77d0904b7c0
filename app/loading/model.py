"""Loading a model, from names on the command line to a stream that is ready to play.

No other module of the edge knows the engine. torch and the models are imported inside, so that help, lists and
refusals come at once.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from app.config.lengths import Rhythm
from app.config.readers import lora_parts
from app.loading.engine_request import EngineRequest
from app.loading.launch import asked_plan, launched
from pipelines.presets import Preset
from pipelines.types import Chunk, Controls
from weights.catalog import MODELS
from weights.find import get_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.components import Components
    from pipelines.engine import Engine
    from pipelines.streaming import Stream
    from pipelines.video import VideoInput


class FilmStream(Protocol):
    """The part of pipelines.streaming.Stream that a film needs."""

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk: ...


@dataclass(frozen=True, slots=True)
class Beginnings:
    """How a stream begins with pictures (pipelines/beginning.py).

    `size` is their height and width in pixels, `fps` their rate, `remembers` how many latent frames its memory holds.
    `begin_with` makes the first chunks of given pictures; `refer_to` lets the film refer to one that it does not show,
    and `no_reference` says why it cannot.
    """

    size: tuple[int, int]
    fps: float
    remembers: int
    begin_with: "Callable[[NDArray[np.uint8], Controls, Sequence[int]], list[Chunk]]"
    refer_to: "Callable[[NDArray[np.uint8], Controls], int]"
    no_reference: str = ""


def beginnings_of(stream: "Stream") -> Beginnings:
    """How this stream, which has not begun and has an autoencoder, begins with pictures."""
    from pipelines.beginning import begin_with, refer_to
    from pipelines.lead_in import check_leads_in

    assert stream.engine.autoencoder is not None
    (height, width), scale = stream.state.latents.ring.shape[-2:], stream.engine.autoencoder.spatial_scale
    why = ""
    try:
        check_leads_in(stream.engine)
    except ValueError as error:
        why = f"{str(error)[0].upper()}{str(error)[1:]}."
    return Beginnings(
        size=(height * scale, width * scale),
        fps=stream.fps,
        remembers=stream.engine.policies.cache.capacity,
        begin_with=lambda frames, controls, parts: begin_with(stream, frames, controls, parts),
        refer_to=lambda picture, controls: refer_to(stream, picture, controls),
        no_reference=why,
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream with what the edge wants to know about it.

    `read_prompt` encodes a prompt (raising ValueError if the model cannot read it) and returns the words
    unknown to the model, each with known words near it. `memory` is the bytes in use, on the device that
    computes. `save` writes the stream's state to a file and returns its sha256; `restore` puts it back, with
    ValueError if the file is not what it was. `video_input` is the way of a video into a stream that is open for one.
    `begins` is how it begins with pictures, `parallel` the plan it is spread by, "" for none. `engine` is the request
    as it was carried out, where that says more than was asked: under which plan it is held.
    """

    stream: FilmStream
    rhythm: Rhythm
    fps: float
    model: str
    checksum: str
    device: str
    threads: int
    read_prompt: Callable[[str], Mapping[str, tuple[str, ...]]]
    memory: Callable[[], int]
    save: Callable[[Path], str]
    restore: Callable[[Path, str], None]
    video_input: Callable[[], "VideoInput"] | None = None
    begins: "Beginnings | None" = None
    parallel: str = ""
    engine: EngineRequest | None = None


class StreamOpener(Protocol):
    """Loads a model and builds its stream."""

    def __call__(self, request: EngineRequest, seed: int) -> Opened: ...


def rhythm_of(preset: Preset) -> Rhythm:
    """How many latent frames the chunks of a preset have; known without its model."""
    return Rhythm(preset.first_chunk or preset.chunk, preset.chunk)


class Spread(Protocol):
    """The ranks that help with a model's films; app.loading.ranks.Ranks is such."""

    @property
    def written(self) -> str:
        """The plan, as people write it."""
        ...

    def stream(self, components: "Components", engine: "Engine", **settings: Any) -> "Stream":
        """A stream on all of them."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, where it computes and with how many threads; `memory` is the bytes in use there.

    `ranks` are those that help with its films. `request` is what was asked for, under the plan that it is held by.
    """

    name: str
    components: "Components"
    device: str
    threads: int
    memory: Callable[[], int]
    request: EngineRequest
    ranks: "Spread | None" = None


def load_model(request: EngineRequest) -> Loaded:
    """Load the model of `request`.

    Raises:
        ValueError, FileNotFoundError, PermissionError: what the engine refuses, in a sentence of its own.
    """
    name = request.model or request.preset.model
    get_model(name)  # a wrong name is refused before torch takes its seconds
    asked = asked_plan(request.parallel, request.gpus, launched())
    import torch

    from app.loading.fitting import fitted
    from pipelines.components import choose_device, load_components

    device, dtype = choose_device(request.device)
    ranks = None
    if asked is not None:
        from app.loading.ranks import Ranks

        if request.vram is not None or request.plan is not None:
            raise ValueError("--vram fits a film into one device: leave it out, or give --parallel single")
        own = None if device == "cuda" else max(1, torch.get_num_threads() // asked.ranks)
        request = replace(request, device=device, threads=request.threads or own)
        ranks = Ranks(asked, request)
    threads = use_threads(request.threads)
    request = fitted(request, name, device, dtype)
    plan = request.plan
    components = load_components(
        name,
        device=device,
        dtype=dtype,
        models_dir=request.models_dir,
        offline=request.offline,
        licence_accepted=request.accepted_licences,
        vae="tiny" if plan is not None and plan.decoder == "tiny" and request.vae == "auto" else request.vae,
        plan=plan,
        loras=[lora_parts(written) for written in request.loras],
        ema=request.ema,
    )
    if request.attention != "auto":
        from app.loading.attention import use_attention

        use_attention(components.transformer, request)
    memory = torch.cuda.memory_reserved if device == "cuda" else resident_bytes
    if ranks is not None:
        ranks.loaded(components.transformer)
    return Loaded(name, components, device, threads, memory, request, ranks)


class OneModel:
    """Opens the streams of many films, one after the other, over one model that is loaded with the first of them."""

    def __init__(self) -> None:
        self._loaded: tuple[EngineRequest, Loaded] | None = None

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        """A stream; raises as `load_model`."""
        if self._loaded is None or self._loaded[0] != request:
            self._loaded = None  # two models at a time may not fit
            self._loaded = request, load_model(request)
        return stream_of(self._loaded[1], request, seed)


def open_stream(request: EngineRequest, seed: int) -> Opened:
    """Load the model of `request` and build its stream; raises as `load_model`."""
    return stream_of(load_model(request), request, seed)


def stream_of(loaded: Loaded, request: EngineRequest, seed: int) -> Opened:
    """Build the stream of `request` over its model, which is loaded already."""
    from pipelines.build import build_stream, sources_of
    from pipelines.snapshots import load_snapshot, save_snapshot

    components, device = loaded.components, loaded.device
    held = request
    if loaded.request.plan is not None:
        held = replace(request, preset=loaded.request.preset, plan=loaded.request.plan, whole=loaded.request.whole)
    stream = build_stream(
        held.preset,
        components,
        height=request.height,
        width=request.width,
        seed=seed,
        untrained=request.untrained,
        video=request.video,
        **({} if loaded.ranks is None else {"make": partial(loaded.ranks.stream, components)}),
    )

    def video_input() -> "VideoInput":
        from pipelines.video import VideoInput

        return VideoInput(stream)

    def read_prompt(prompt: str) -> Mapping[str, tuple[str, ...]]:
        stream.engine.conditioner.embed(prompt)
        return components.text_encoder.unknown_words(prompt)

    return Opened(
        stream=stream,
        rhythm=rhythm_of(held.preset),
        fps=stream.fps,
        model=loaded.name,
        checksum=weights_checksum(sources_of(request.preset, components)),
        device=device,
        threads=loaded.threads,
        read_prompt=read_prompt,
        memory=loaded.memory,
        save=lambda path: save_snapshot(stream.snapshot("cpu"), path),
        restore=lambda path, sha256: stream.restore(load_snapshot(path, sha256=sha256)),
        video_input=video_input if request.video else None,
        begins=beginnings_of(stream),
        parallel="" if loaded.ranks is None else loaded.ranks.written,
        engine=held,
    )


def use_threads(threads: int | None) -> int:
    """Give torch that many CPU threads (None: as many as it likes) and return how many it has."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def resident_bytes() -> int:
    """Memory of this process, in bytes."""
    import psutil

    return psutil.Process().memory_info().rss


def weights_checksum(sources: Iterable[Path]) -> str:
    """sha256 over the files that were loaded, in their order: every byte that the networks are made of."""
    digest = hashlib.sha256()
    for source in sources:
        files = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
        for file in files:
            digest.update(f"{source.name}/{file.name}\0".encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def at_hand(model: str, models_dir: Path | None = None) -> bool:
    """Whether all weights of a model are on this disk, without asking the network; None: the Hugging Face cache."""
    from weights.fetch import fetch

    try:
        for spec in MODELS[model].weights:
            fetch(spec, models_dir, offline=True)
    except FileNotFoundError:
        return False
    return True
