"""Engines of tiny films that every rank makes for itself, by the names of functions, so that they can be told."""

from __future__ import annotations

from dataclasses import replace

import torch

from cache.deep_forcing import DeepForcing
from cache.dual_scope import DualScope
from cache.fifo import SinkWindow
from cache.in_flight import InFlight, Preceding
from cache.positions import Glued, MovedSink, SlotIndex
from cache.refresh import SinkRefresh
from cache.switches import Keep, Recache
from cache.windows import RollingWindow
from pipelines.engine import Engine
from schedulers.batch import StreamBatch
from schedulers.buffer import MovingBuffer
from schedulers.cascade import Cascade
from tests.tiny import tiny_autoencoder, tiny_engine, tiny_transformer

LEVELS = (1000.0, 750.0, 500.0, 250.0)


def stream_batch() -> Engine:
    """Four levels, each with a memory of its own, whose sink is renewed."""
    return tiny_engine(
        tiny_transformer(num_layers=3),
        plan=StreamBatch(LEVELS, chunk=1),
        cache=SinkRefresh(window=6, sink=2, keeps="level", threshold=0.9),
        position=SlotIndex(),
        switch=Keep(),
        autoencoder=tiny_autoencoder(),
    )


def stream_batch_latents() -> Engine:
    """The same without pictures."""
    return replace(stream_batch(), autoencoder=None)


def clean(dtype: torch.dtype = torch.float32) -> Engine:
    """One memory, re-cache on a new prompt, chunks of 3; four heads and full guidance."""
    transformer = tiny_transformer(num_layers=3, num_attention_heads=4, attention_head_dim=16, dtype=dtype)
    return tiny_engine(transformer, autoencoder=tiny_autoencoder() if dtype == torch.float32 else None)


def clean_64() -> Engine:
    """The same in double precision, whose autoencoder would not be."""
    return clean(torch.float64)


def deep() -> Engine:
    """Tokens kept by content, in double precision."""
    transformer = tiny_transformer(num_layers=2, num_attention_heads=4, attention_head_dim=16, dtype=torch.float64)
    cache = DeepForcing(window=12, sink=3, budget=6, recent=3)
    return tiny_engine(transformer, cache=cache, position=MovedSink(), switch=Keep())


def refreshed() -> Engine:
    """Stream batch in double precision with four heads."""
    return tiny_engine(
        tiny_transformer(num_layers=2, num_attention_heads=4, attention_head_dim=16, dtype=torch.float64),
        plan=StreamBatch(LEVELS, chunk=1),
        cache=SinkRefresh(window=6, sink=2, keeps="level", threshold=0.9),
        position=SlotIndex(),
        switch=Keep(),
    )


def uneven() -> Engine:
    """Three heads, and six tokens a frame that three ranks could share and two share evenly."""
    transformer = tiny_transformer(num_layers=2, num_attention_heads=3, attention_head_dim=32, dtype=torch.float64)
    return tiny_engine(transformer)


def joint(dtype: torch.dtype = torch.float64) -> Engine:
    """Rolling Forcing in small: four chunks of 3 frames in one window, before a memory of clean ones."""
    return tiny_engine(
        tiny_transformer(num_layers=2, dtype=dtype),
        plan=MovingBuffer(LEVELS, chunk=3, memory="clean"),
        cache=SinkWindow(window=12, sink=3, counts="commit"),
        view=RollingWindow(visible=15, sink=3),
        position=Glued(),
        switch=Keep(),
        autoencoder=tiny_autoencoder() if dtype == torch.float32 else None,
    )


def joint_32() -> Engine:
    """The same in single precision, with pictures."""
    return joint(torch.float32)


def scoped() -> Engine:
    """The same in double precision, where a frame sees one neighbour a side and two spread frames."""
    engine = joint()
    return replace(engine, policies=replace(engine.policies, scope=DualScope(1, 2)))


def cascade(depth: int = 3) -> Engine:
    """Chunks of 2 that begin on half-denoised keys of those before, three at once; with pictures."""
    return tiny_engine(
        tiny_transformer(num_layers=2),
        plan=Cascade(LEVELS, chunk=2, depth=depth),
        cache=InFlight(8, 2, chunk=2, depth=depth),
        view=Preceding(1.0, 8, 2),
        position=SlotIndex(),
        switch=Recache(8, 2, keep_sink=False),
        autoencoder=tiny_autoencoder(),
    )


def cascade_of_five() -> Engine:
    """As many chunks at once as a chunk has passes."""
    return cascade(5)
