"""Self-Forcing: few-step causal Wan with clean memory in a sliding window."""

from cache.fifo import SinkWindow
from cache.positions import Absolute
from cache.switches import Keep
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule

SELF_FORCING = Preset(
    name="self-forcing",
    title="Self-Forcing: 4 steps, window of 21 latent frames, absolute positions",
    model="self-forcing-1.3b",
    paper="Huang et al. 2025, arXiv 2506.08009",
    licence="code Apache-2.0; weights: see their card",
    plan="serial-clean",
    schedule=Schedule(),
    cache=SinkWindow(window=21, sink=0),
    window=AllRemembered(),
    position=Absolute(),
    switch=Keep(),  # the released system has no prompt switch
    fixes=(
        "The window slides: as shipped nothing is ever evicted, and latent frame 22 is written past the buffer.",
        "No end at latent frame 1024: angles are computed from integers instead of looked up in a table.",
    ),
    traces=("sf_", "sched_sf"),
)
