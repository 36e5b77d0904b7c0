"""What a stream allocates before its first chunk: its state, and the buffers that its passes read and fill."""

from __future__ import annotations

from cache.buffers import Buffers
from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.residuals import Residuals
from parallel.share import Share
from pipelines.engine import Engine
from pipelines.state import Latents, StreamState
from schedulers.cascade import Cascade


def allocated(
    engine: Engine, frame: tuple[int, int, int, int], share: Share | None, *, seed: int, stream: int
) -> tuple[Share, StreamState, Buffers]:
    """The share of a stream that lies here, its state at the beginning, and the buffers of the lanes that are here.

    Args:
        engine: weights and policies.
        frame: [B, C, H, W] of a latent frame.
        share: what lies in this process; all if None.
        seed: of all its noise.
        stream: its number.
    """
    device, dtype = engine.transformer.expects
    config, policies, plan = engine.transformer.config, engine.policies, engine.policies.plan
    batch, _, height, width = frame
    rows, columns = engine.transformer.grid(height, width)
    capacity = policies.cache.capacity
    shape = KVShape(
        layers=config["num_layers"],
        batch=batch,
        capacity=capacity,
        own=max(plan.width, policies.switch.replays),
        rows=rows,
        columns=columns,
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
    )
    share = share or Share(range(plan.lanes), range(shape.layers), range(shape.heads))
    buffers = Buffers.allocate(share.shape(shape, share.lanes.start), len(share.lanes), device=device, dtype=dtype)
    autoencoder, flying = engine.autoencoder, plan.width * (plan.depth if isinstance(plan, Cascade) else plan.lanes)
    state = StreamState(
        seed=seed,
        stream=stream,
        kv=[
            KVStore(
                share.shape(shape, lane),
                buffers.lane(lane - share.lanes.start, batch) if lane in share.lanes else None,
                lane=lane,
                scorer=share.scorer(policies.cache.scorer) if lane in share.lanes else None,
                storage=engine.storage,
            )
            for lane in range(plan.lanes)
        ],
        latents=Latents(frame, max(capacity, plan.width), device, dtype),
        flight=Latents(frame, flying, device, dtype),
        residuals=[
            Residuals(
                policies.layers.buffers(shape.layers),
                (batch, shape.tokens, shape.heads * shape.head_dim),
                policies.layers.chunks * plan.width or max(capacity, plan.width),
                device,
                dtype,
                shape.layers,
            )
            for _ in range(plan.lanes * (1 + policies.layers.halves))
        ],
        decoder=[] if autoencoder is None else autoencoder.init_decode_state(batch, height, width, device),
    )
    return share, state, buffers
