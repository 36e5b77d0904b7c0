"""Anchor Forcing: LongLive with the beginning of each scene kept in memory, and positions in three fixed regions."""

from dataclasses import replace

from cache.anchors import JunctionAnchors
from cache.positions import Regions
from cache.switches import Recache
from cache.windows import SinkAnchorRecent
from pipelines.presets.longlive import LONGLIVE

_MEMORY = JunctionAnchors(window=12, sink=3, anchor=3)

ANCHOR_FORCING = replace(
    LONGLIVE,
    name="anchor-forcing",
    title="Anchor Forcing: sink 3, window 12, the first 3 frames after a new prompt stay visible, re-cache beside them",
    model="anchor-forcing-1.3b",
    paper="Yang et al. 2026, arXiv 2603.13405",
    licence="code and weights: non-commercial (CC BY-NC-SA 4.0 by its README, no licence file)",
    cache=_MEMORY,
    window=SinkAnchorRecent.of(_MEMORY),
    position=Regions.of(_MEMORY, horizon=21),
    switch=Recache.of(_MEMORY),
    fixes=(
        "Until a new junction has left the window, the anchor of the scene before is shown, from the second change of "
        "the prompt on. The release means to, but copies it again in every pass of the new scene's first chunk, so it "
        "shows that chunk's own noisy keys, and from the third change on only.",
        "An anchor is shown once its frames have left the window and not before, so no frame is seen twice. The "
        "release counts from the frame that was asked for, which need not begin a chunk, and in a re-cache from 3 "
        "frames earlier, those whose keys it drops.",
        *LONGLIVE.fixes[:2],
    ),
    traces=("anchor", "sched_af"),
)
