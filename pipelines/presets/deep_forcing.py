"""Deep Forcing: Self-Forcing's weights in films of any length, without training, by what the memory holds and where."""

from dataclasses import replace

from cache.deep_forcing import DeepForcing, DeepSink
from cache.positions import MovedSink
from pipelines.presets.self_forcing import SELF_FORCING

DEEP_FORCING_SINK = replace(
    SELF_FORCING,
    name="deep-forcing-sink",
    title="Deep Forcing without pruning: sink 10 that keeps up with the film, window of 21",
    paper="Yi et al. 2025, arXiv 2512.05081; on the weights of Huang et al. 2025, arXiv 2506.08009",
    cache=DeepSink(window=21, sink=10),
    position=MovedSink(),
    fixes=(
        "The sink's keys are rotated once, from un-rotated ones: the release turns its stored keys further with every "
        "move, and in bfloat16 the roundings add up.",
        "No end at latent frame 1024: angles are computed from integers instead of looked up in a table.",
    ),
    traces=("deep_sink",),
)

DEEP_FORCING = replace(
    DEEP_FORCING_SINK,
    name="deep-forcing",
    title="Deep Forcing: sink 10 that keeps up, window of 21 pruned to 16 by the tokens that attention asks for",
    cache=DeepForcing(window=21, sink=10, budget=16, recent=4, max_reuse=7),
    fixes=(
        *DEEP_FORCING_SINK.fixes,
        "A window other than 21 moves the sink by its own length: the release writes 21 into the first move.",
        "A new film forgets the last one's queries, counts and moves: the release resets two indices only.",
    ),
    traces=("deep_pc",),
)
