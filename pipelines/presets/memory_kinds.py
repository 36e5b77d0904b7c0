"""StreamingVLM's and MemRoPE's memories over LongLive's plan: markers that stay longer, and frames kept as means."""

from dataclasses import replace

from cache.switches import Recache
from cache.tagged_memory import AveragedMemory, MarkedWindow
from pipelines.presets.longlive import LONGLIVE_INFINITY

_MARKED = MarkedWindow(window=12, sink=3, markers=3, mark=1)
_AVERAGED = AveragedMemory(window=12, sink=3, shares=(0.01, 0.1))

STREAMING_VLM = replace(
    LONGLIVE_INFINITY,
    name="streaming-vlm",
    title="StreamingVLM's asymmetric windows: sink 3, a first frame of each of the last 3 new prompts, recent frames",
    paper="Xu et al. 2025, arXiv 2510.09608",
    licence="our own code after the paper; weights: see their card",
    cache=_MARKED,
    switch=Recache.of(_MARKED),
    fixes=(
        "A vision-language model keeps text longer than pictures; a film has no text in its memory, so the first frame "
        "after each new prompt takes that place.",
    ),
    traces=(),
)

MEM_ROPE = replace(
    LONGLIVE_INFINITY,
    name="mem-rope",
    title="MemRoPE: sink 3, a long and a short running mean of all that left, 4 recent frames, slot positions",
    paper="Kim et al. 2026, arXiv 2603.12513",
    licence="our own code after the paper; weights: see their card",
    cache=_AVERAGED,
    # The paper has one prompt. Frames are replayed under a new one, means cannot be and fade by their shares.
    switch=Recache(_AVERAGED.window - len(_AVERAGED.shares), _AVERAGED.sink),
    fixes=("Means are kept in float32: in bfloat16 a share of 0.01 mostly rounds to nothing.",),
    traces=(),
)
