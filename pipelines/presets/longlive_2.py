"""LongLive 2: shots in one film, each pinned by its first chunk, and a deterministic solver of four steps."""

from cache.positions import ShotOffset
from cache.switches import Keep
from cache.tagged_memory import MarkedWindow
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule

LONGLIVE_2 = Preset(
    name="longlive-2",
    title="LongLive 2: chunks of 8, window 32 with a sink of 8 and the shot's first chunk, 4 UniPC steps",
    model="longlive-2-5b",
    paper="NVIDIA 2026, arXiv 2605.18739",
    licence="code Apache-2.0; weights: see their card",
    plan="serial-clean",
    schedule=Schedule(step="unipc", shift=5.0),
    # Slots: the film's first 8 frames, the newest shot's first 8, the 8 before the chunk, the chunk.
    cache=MarkedWindow(window=32, sink=8, markers=8, mark=8),
    window=AllRemembered(),
    position=ShotOffset(offset=8),
    switch=Keep(),  # nothing is replayed: a new prompt begins a shot, and the shot's first chunk takes the pin
    chunk=8,
    fixes=(
        "Every new prompt begins a shot. The release takes a prompt a chunk and begins one where its text opens with "
        "a phrase agreed upon in training.",
        "No end at latent frame 1024 in a film of one shot: angles are computed from integers.",
    ),
)
