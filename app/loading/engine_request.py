"""Which engine to open: preset, model, size, device and memory, as flags, files and messages ask for it."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.memory_plan import MemoryPlan
from pipelines.presets import Preset


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine to open: None takes the preset's model, the model's own size, torch's number of threads.

    `models_dir` is where downloads go (None: the Hugging Face cache), `offline` forbids them, `accepted_licences` are
    the names of models, or of their weights, whose licence the person has accepted. `video` opens the stream for one.
    `loras` are written FILE or FILE:STRENGTH, `vae` is auto, full, tiny or a path, `ema` chooses between the averaged
    weights of a training script's file and the others (None: the release's own choice). `vram` is the memory that it
    has to fit into, as `--vram` writes it, and `plan` how it is held for that, with `preset` as that leaves it and
    `whole` as it was; None: `vram` says. `attention` is the kernel that computes it. `parallel` and `gpus` spread it
    over ranks, as the flags are written.
    """

    preset: Preset
    model: str | None = None
    untrained: bool = False
    device: str = "auto"
    threads: int | None = None
    height: int | None = None
    width: int | None = None
    models_dir: Path | None = None
    offline: bool = False
    accepted_licences: frozenset[str] = frozenset()
    video: bool = False
    loras: tuple[str, ...] = ()
    vae: str = "auto"
    ema: bool | None = None
    vram: str | None = None
    plan: MemoryPlan | None = None
    whole: Preset | None = None
    attention: str = "auto"
    parallel: str = ""
    gpus: int | None = None
