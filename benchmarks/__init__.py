"""Everything that is measured: `rivulet bench` lists it, `rivulet bench NAME` runs one of BENCHMARKS.

Every figure that the README or a card claims comes from here. A folder a subject: speed, quality, live, robust; pages/
makes docs/ from results/. Add one: a file with a `Benchmark` (benchmarks/benchmark.py) that imports what is heavy where
it measures, and a line in the registry below; list, flags and help follow from its fields, and
tests/benchmarks/test_registry.py covers it unasked.
"""

from benchmarks.benchmark import Benchmark
from benchmarks.live.live import Live
from benchmarks.live.serve import Serve
from benchmarks.quality.ablation import Ablation
from benchmarks.quality.overlap import Overlap
from benchmarks.quality.presets import Presets
from benchmarks.quality.quality import Quality
from benchmarks.quality.reuse import Reuse
from benchmarks.quality.v2v import VideoFilms
from benchmarks.robust.damage import DamagedFilms
from benchmarks.robust.flood import Flood
from benchmarks.robust.fuzz import Fuzz
from benchmarks.robust.resume import Resume
from benchmarks.speed.attention import AttentionKernels
from benchmarks.speed.cost import Cost
from benchmarks.speed.graphics_card import GraphicsCard
from benchmarks.speed.long_film import LongFilm
from benchmarks.speed.memory import Memory
from benchmarks.speed.parallel import Spread
from benchmarks.speed.random_weights import RandomWeights
from benchmarks.speed.startup import Startup
from benchmarks.speed.stream import StreamSpeed

BENCHMARKS: dict[str, type[Benchmark]] = {
    "stream": StreamSpeed,
    "parallel": Spread,
    "memory": Memory,
    "startup": Startup,
    "film": LongFilm,
    "cost": Cost,
    "attention": AttentionKernels,
    "random_weights": RandomWeights,
    "gpu": GraphicsCard,
    "quality": Quality,
    "ablation": Ablation,
    "presets": Presets,
    "v2v": VideoFilms,
    "cache": Reuse,
    "overlap": Overlap,
    "live": Live,
    "serve": Serve,
    "resume": Resume,
    "damage": DamagedFilms,
    "fuzz": Fuzz,
    "flood": Flood,
}
