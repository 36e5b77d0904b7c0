"""LongLive and LongLive-infinity: a frame sink, a short window, and re-cached keys when the prompt changes."""

from dataclasses import replace

from cache.fifo import SinkWindow
from cache.positions import Absolute, SlotIndex
from cache.switches import Recache
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule

MEMORY = SinkWindow(window=12, sink=3)

LONGLIVE = Preset(
    name="longlive",
    title="LongLive: sink 3, window 12, re-cache on a new prompt, absolute positions",
    model="longlive-1.3b",
    paper="Yang et al. 2025, arXiv 2509.22622",
    licence="code Apache-2.0 (two model files say CC-BY-NC-SA); weights: see their card",
    plan="serial-clean",
    schedule=Schedule(),
    cache=MEMORY,
    window=AllRemembered(),
    position=Absolute(),
    switch=Recache.of(MEMORY),
    fixes=(
        "A re-cache replays the 9 frames behind the sink instead of all 12: the release drops the keys of the first 3, "
        "so the memory is the same for a quarter less work.",
        "Only clean keys are remembered: the release also writes those of the noisy passes, and guards the sink from "
        "all but the first of them, so that a sink longer than a chunk keeps noisy keys for ever.",
        "No end at latent frame 1024: angles are computed from integers instead of looked up in a table.",
    ),
    traces=("longlive_switch", "sched_ll"),
)

LONGLIVE_INFINITY = replace(
    LONGLIVE,
    name="longlive-infinity",
    title="LongLive-infinity: as LongLive, positions count the slots of the window, no length limit",
    paper="Yang et al. 2025, arXiv 2509.22622; positions after arXiv 2511.20649",
    position=SlotIndex(),
    fixes=LONGLIVE.fixes[:2],
    traces=("longlive_infinity",),
)
