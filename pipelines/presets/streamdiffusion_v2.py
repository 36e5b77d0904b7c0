"""StreamDiffusionV2: every noise level has a memory of its own, so chunks need not wait for one another to be clean."""

from cache.positions import SlotIndex
from cache.refresh import SinkRefresh
from cache.switches import Keep
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule

STREAMDIFFUSION_V2 = Preset(
    name="streamdiffusion-v2",
    title="StreamDiffusionV2: 4 levels in one batch, each with a memory of 6, sink 3 renewed when it is left behind",
    model="streamdiffusion-v2-1.3b",
    paper="Feng et al. 2025, arXiv 2511.07399",
    licence="Apache-2.0, code and weights",
    plan="stream-batch",
    # The released list is 700, 500, 400, 200, of which its default runs the first two. 700 is where video to video
    # begins, and a film from text alone begins with pure noise; a camera's `Start` brings a level of its own
    # (schedulers/motion.py), which must stay above 500.
    schedule=Schedule(denoising_step_list=(1000, 500, 400, 200), shift=8.0, warp=False, plan="stream-batch"),
    cache=SinkRefresh(window=6, sink=3, keeps="level", threshold=0.2),
    window=AllRemembered(),
    # The released system counts frames without end and jumps back to the window's end every 50 or so, so that old
    # keys and new ones disagree about the time between them.
    position=SlotIndex(),
    # Nothing can be replayed: memory was written on the way to the picture, level by level. A new prompt changes the
    # text for all chunks in flight at once; what the old one left is gone 3 chunks later, but for the sink.
    switch=Keep(),
    chunk=1,
)
