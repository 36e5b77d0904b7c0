"""StreamDiffusionV2: every noise level has a memory of its own, so chunks need not wait for one another to be clean."""

from cache.positions import SlotIndex
from cache.refresh import SinkRefresh
from cache.switches import Keep
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule, VideoEntry
from schedulers.motion import MotionNoise

STREAMDIFFUSION_V2 = Preset(
    name="streamdiffusion-v2",
    title="StreamDiffusionV2: 4 levels in one batch, each with a memory of 6, sink 3 renewed when it is left behind",
    model="streamdiffusion-v2-1.3b",
    paper="Feng et al. 2025, arXiv 2511.07399",
    licence="Apache-2.0, code and weights",
    plan="stream-batch",
    # The released list is 700, 500, 400, 200, of which its default runs the first two. 700 is where video to video
    # begins, and a film from text alone begins with pure noise; a chunk of video brings a level of its own
    # (schedulers/motion.py) and goes on with those below it.
    schedule=Schedule(denoising_step_list=(1000, 500, 400, 200), shift=8.0, warp=False, plan="stream-batch"),
    cache=SinkRefresh(window=6, sink=3, keeps="level", threshold=0.2),
    window=AllRemembered(),
    position=SlotIndex(),
    # Nothing can be replayed: memory was written on the way to the picture, level by level. A new prompt changes the
    # text for all chunks in flight at once; what the old one left is gone 3 chunks later, but for the sink.
    switch=Keep(),
    chunk=1,
    # Tuned to be told a level that is 100 lower than its noise, and with latents that nobody had normalised.
    video=VideoEntry(noise=MotionNoise(still=0.8, swing=0.1, lag=100), raw=True),
    fixes=(
        "Only a full memory judges its sink, a frame a chunk. The release compares places that hold nothing yet, finds "
        "them unlike anything, and has thrown its sink away by the time it is full.",
        "No chunk runs before it is there: while its batch fills, the release denoises zeros, and their keys stay.",
        "Positions count slots. The release counts frames and jumps back after 50 or so (or never, and then ends), so "
        "that old keys and new ones disagree about the time between them.",
        "The motion controller's level is the entering chunk's own: the release writes it into its list of steps. A "
        "step that is not below it is left out, where the release repeats it or goes up.",
        "A film of n pictures gives n pictures: the release pushes its last ones out with noise, and loses some of "
        "them in a pipeline of more than two.",
        "What leaves is the oldest frame behind the sink. Without a batch the release loses count of a chunk's steps "
        "once the memory is full, and a step overwrites what another one wrote.",
    ),
    traces=("sdv2_", "sched_sd"),
)
