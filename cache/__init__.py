"""What is remembered: policies that decide in integers, and the store of keys and values they steer.

Add a policy: one file with a frozen dataclass that satisfies a Protocol of cache/types.py, one line in the registry
below; the contract tests (tests/cache/test_cache.py) are parametrised over the registries and cover it unasked. This
`__init__` stays torch-free: tensors are in `cache.kv` and `cache.rope`.
"""

from cache.anchors import JunctionAnchors
from cache.deep_forcing import DeepForcing, DeepSink
from cache.dual_scope import DualScope as DualScope
from cache.features.clean_pass import CleanPass
from cache.features.cross_chunk import CrossChunk
from cache.features.first_block import FirstBlock
from cache.features.planned import Planned
from cache.features.profiled import Profiled
from cache.features.reuse import FeatureCache
from cache.features.step_rehash import StepRehash
from cache.features.taylorseer import TaylorSeer
from cache.features.teacache import TeaCache
from cache.fifo import SinkWindow
from cache.in_flight import InFlight, Preceding
from cache.none import NoMemory
from cache.positions import Absolute, Glued, MovedSink, Regions, ShotOffset, SlotIndex
from cache.refresh import SinkRefresh
from cache.switches import Keep, Recache
from cache.tagged_memory import AveragedMemory, MarkedWindow
from cache.types import CachePolicy, PositionPolicy, SwitchPolicy, WindowPolicy
from cache.windows import AllRemembered, RollingWindow, SinkAnchorRecent, SinkAndRecent

CACHE_POLICIES: dict[str, type[CachePolicy]] = {
    "sink-window": SinkWindow,
    "sink-refresh": SinkRefresh,
    "marked": MarkedWindow,
    "averaged": AveragedMemory,
    "deep-sink": DeepSink,
    "deep-forcing": DeepForcing,
    "junction-anchors": JunctionAnchors,
    "in-flight": InFlight,
    "none": NoMemory,
}
WINDOW_POLICIES: dict[str, type[WindowPolicy]] = {
    "all": AllRemembered,
    "sink-recent": SinkAndRecent,
    "preceding": Preceding,
    "rolling": RollingWindow,
    "sink-anchor-recent": SinkAnchorRecent,
}
POSITION_POLICIES: dict[str, type[PositionPolicy]] = {
    "absolute": Absolute,
    "slot": SlotIndex,
    "glued": Glued,
    "moved-sink": MovedSink,
    "regions": Regions,
    "shot-offset": ShotOffset,
}
FEATURE_CACHES: dict[str, type[FeatureCache]] = {
    "clean-pass": CleanPass,
    "cross-chunk": CrossChunk,
    "first-block": FirstBlock,
    "planned": Planned,
    "profiled": Profiled,
    "taylorseer": TaylorSeer,
    "step-rehash": StepRehash,
    "teacache": TeaCache,
}
SWITCH_POLICIES: dict[str, type[SwitchPolicy]] = {"keep": Keep, "recache": Recache}
