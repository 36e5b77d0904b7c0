"""The model that ships: our own small causal Wan, on a laptop CPU, without a download."""

from dataclasses import replace

from cache.switches import Recache
from pipelines.presets.base import Schedule
from pipelines.presets.longlive import LONGLIVE_INFINITY, MEMORY

EMBEDDED = replace(
    LONGLIVE_INFINITY,
    name="embedded",
    title="the small painted world: sink 3, window 12, re-cache, 4 Euler steps",
    model="embedded",
    paper="this repository",
    licence="Apache-2.0",
    schedule=Schedule(denoising_step_list=(1000, 750, 500, 250), shift=3.0, step="euler"),
    switch=Recache.of(MEMORY, keep_sink=False),
    fixes=(),
    traces=(),
)
