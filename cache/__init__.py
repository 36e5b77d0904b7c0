"""What is remembered: policies that decide in integers, and the store of keys and values they steer.

Add a policy: one file with a frozen dataclass that satisfies a Protocol of cache/types.py, one line in the registry
below; the contract tests (tests/test_cache.py) are parametrised over the registries and cover it unasked. This
`__init__` stays torch-free: tensors are in `cache.kv` and `cache.rope`.
"""

from cache.fifo import SinkWindow
from cache.positions import Absolute, SlotIndex
from cache.switches import Keep, Recache
from cache.types import CachePolicy, PositionPolicy, SwitchPolicy, WindowPolicy
from cache.windows import AllRemembered, SinkAndRecent

CACHE_POLICIES: dict[str, type[CachePolicy]] = {"sink-window": SinkWindow}
WINDOW_POLICIES: dict[str, type[WindowPolicy]] = {"all": AllRemembered, "sink-recent": SinkAndRecent}
POSITION_POLICIES: dict[str, type[PositionPolicy]] = {"absolute": Absolute, "slot": SlotIndex}
SWITCH_POLICIES: dict[str, type[SwitchPolicy]] = {"keep": Keep, "recache": Recache}
