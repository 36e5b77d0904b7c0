"""Noise: which levels a chunk passes through, the tables behind the levels, and addressed random numbers.

Add a noise plan: one file with a frozen dataclass that satisfies `NoisePlan` of cache/types.py, one line below. This
`__init__` stays torch-free: tables and steps are in `schedulers.flow_match` and `schedulers.steps`.
"""

from collections.abc import Callable

from cache.types import NoisePlan
from schedulers.batch import StreamBatch
from schedulers.buffer import MovingBuffer
from schedulers.cascade import Cascade
from schedulers.serial import Serial

NOISE_PLANS: dict[str, Callable[..., NoisePlan]] = {
    "serial": Serial,
    "moving-buffer": MovingBuffer,
    "stream-batch": StreamBatch,
    "cascade": Cascade,
}
