"""Rolling Forcing: five chunks at rising noise in one pass, a long memory behind them, a sink that stays near."""

from cache.fifo import SinkWindow
from cache.positions import Glued
from cache.switches import Keep
from cache.windows import RollingWindow
from pipelines.presets.base import Preset, Schedule

_MEMORY = SinkWindow(window=24, sink=3, counts="commit")

ROLLING_FORCING = Preset(
    name="rolling-forcing",
    title="Rolling Forcing: 5 chunks denoised jointly, memory of 24, sink 3 glued to what is seen",
    model="rolling-forcing-1.3b",
    paper="Liu et al. 2025, arXiv 2509.25161",
    licence="code and weights: academic use only (Tencent's own licence)",
    plan="rolling-window",
    schedule=Schedule(denoising_step_list=(1000, 800, 600, 400, 200), plan="moving-buffer"),
    cache=_MEMORY,
    window=RollingWindow(visible=21, sink=_MEMORY.sink),
    position=Glued(),
    switch=Keep(),  # the released system has no prompt switch; all five chunks hear a new prompt at once
    fixes=(
        "No writes while the film's first chunk is not finished: in the release each replaces the one before, and the "
        "first chunk sees only its own window until it leaves.",
        "Noise is drawn for the frames that take it: the release draws the whole window once a chunk and uses a part.",
        "The film does not end: the release lets its window run empty after a number of frames fixed beforehand.",
        "No end at latent frame 1024: angles are computed from integers instead of looked up in a table.",
    ),
    traces=("rolling", "sched_rf"),
)
