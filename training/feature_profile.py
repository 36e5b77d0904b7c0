"""What `rivulet profile` measures: a film is played, and what its passes leave on the way is compared.

Found are the passes to compute and the corrections of the others (CacheQuant), the polynomial of TeaCache, and the
layers whose attention lies on what stays as it is (ProfilingDiT). There a segmentation network says what that is; here
it is what does not move in the pictures. Under guidance the pass with the prompt is measured, and its twin takes the
same corrections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cache.features.facts import Facts
from cache.features.reuse import in_order, kept, middle
from cache.layer_plan import EVERY, LayerPlan, LayerPolicy, Left, Tap
from cache.rope import rotate
from cache.types import Pass, Row, Slots
from models.attention import SelfContext, project_self
from pipelines.feature_profile import FeatureProfile
from pipelines.streaming import Stream
from pipelines.types import Controls
from training.affine import AffineFit
from training.segmentation import deal

if TYPE_CHECKING:
    from models.wan import CausalWanTransformer3DModel

FIRST = 1
"""Layers that are always computed."""
_QUERIES = 64
"""Of a layer whose attention is looked at."""
_STILL = 2 / 255
"""Mean change of a picture below which nothing in it moves."""


@dataclass(frozen=True, slots=True)
class Watching(LayerPolicy):
    """Leaves what the layers read and add in every pass, and changes nothing.

    Buffers: the modulated input of each of the passes, what the layers behind the first ones add in each, and what each
    layer adds in the last pass and in the clean one.
    """

    levels: tuple[float, ...]
    chunk: int

    def buffers(self, layers: int) -> int:
        return 2 * len(self.levels) + 2 * layers

    @property
    def chunks(self) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        steps, layers = len(self.levels), left.layers
        if work.kind == "clean":
            return LayerPlan(taps=self._each(layers, 2 * steps + layers))
        step = len(left.of(row.frames))
        if work.kind != "denoise" or row.commit or len({*row.levels}) > 1 or step >= steps:
            return EVERY
        taps = [Tap(0, step, "keep_modulated"), *kept(middle(layers, FIRST, 0), steps + step)]
        if step == steps - 1:
            taps += self._each(layers, 2 * steps)
        return LayerPlan(taps=in_order(*taps))

    def _each(self, layers: int, first: int) -> tuple[Tap, ...]:
        return in_order(*(tap for layer in range(layers) for tap in kept(range(layer, layer + 1), first + layer)))


@dataclass(slots=True)
class Watched:
    """What was seen of a film; `fits` by (chunk of the period, source, target)."""

    fits: dict[tuple[int, int, int], AffineFit] = field(default_factory=dict)
    clean: list[AffineFit] = field(default_factory=list)
    changes: list[tuple[float, float]] = field(default_factory=list)
    looks: dict[int, list[float]] = field(default_factory=partial(defaultdict, list))


def profile(
    stream: Stream,
    prompts: Sequence[str],
    *,
    chunks: int,
    computed: float,
    period: int = 2,
    report: Callable[[str], object] = lambda text: None,
) -> tuple[FeatureProfile, dict[str, Any]]:
    """Play a film and find out what its model allows.

    Args:
        stream: about to begin, of one film.
        prompts: of the film, in equal parts.
        chunks: of the film.
        computed: share of the passes that are computed.
        period: chunks after which the plan begins again.
        report: told how far it is.

    Returns:
        The profile, and figures for people: `errors` of every pair of passes as they are and corrected, `clean` by
        layer, `looks` by layer: the attention on what moves, in shares of that on everything.

    Raises:
        ValueError: the film is too short, or the share cannot be had.
    """
    steps = stream.engine.policies.plan.levels
    if chunks < period * (len(prompts) + 1):
        raise ValueError(f"a profile needs {period * (len(prompts) + 1)} chunks or more for {len(prompts)} prompts")
    engine = stream.engine
    chunk = engine.policies.plan.chunk
    watching = replace(engine, policies=replace(engine.policies, layers=Watching(steps, chunk)))
    height, width = stream.state.latents.ring.shape[-2:]
    flows: list[Tensor] = []

    def observe(work: Pass, row: Row, x: Tensor, flow: Tensor, *_: object) -> None:
        if work.kind == "denoise":
            flows.append(flow)

    film = Stream(watching, height=height, width=width, seed=stream.state.seed, observer=observe)
    seen = Watched()
    with _Attention(film) as attention:
        for number in range(chunks):
            flows.clear()
            shown = film.next_chunk(
                Controls(prompts[number * len(prompts) // chunks]), decode=engine.autoencoder is not None
            )
            _compare(seen, film, shown.latent, flows, number % period)
            if shown.pixels is not None and number:
                _look(seen, attention, shown.pixels, film)
            report(f"chunk {number + 1} of {chunks}")
    return _found(seen, film, computed, period)


def _found(seen: Watched, film: Stream, computed: float, period: int) -> tuple[FeatureProfile, dict[str, Any]]:
    levels = film.engine.policies.plan.levels
    layers, passes = film.state.kv[0].shape.layers, len(levels)
    pairs = [(source, target) for target in range(passes) for source in range(target)]
    pooled = {pair: sum((seen.fits[(p, *pair)] for p in range(1, period)), seen.fits[(0, *pair)]) for pair in pairs}
    fixed = {pair: fit.correction() for pair, fit in pooled.items()}
    rows = [
        [[seen.fits[p, i, t].error(fixed[i, t]) if i < t else 0.0 for t in range(passes)] for i in range(passes)]
        for p in range(period)
    ]
    count = max(period, round(computed * period * passes))
    longest = max(2, round(2 / max(computed, 1e-6)))
    cuts = deal(rows, count, longest=longest)
    # Attention goes to what moves no more than to anything else.
    looks = {layer: float(np.mean(values)) for layer, values in sorted(seen.looks.items())}
    facts = Facts(
        layers=layers,
        levels=levels,
        computed=tuple(tuple(step in cut.starts for step in range(passes)) for cut in cuts),
        background=tuple(layer for layer, look in looks.items() if look < 1.0),
        coefficients=_polynomial(seen.changes, min(4, max(1, passes - 2))),
        first=FIRST,
    )
    width = seen.clean[0].correction().shape[1]
    corrections = torch.stack([torch.ones(width), torch.zeros(width)]).repeat(facts.corrections, 1, 1)
    for (source, target), correction in fixed.items():
        corrections[facts.of_level(source, target)] = correction.float()
    for layer, fit in enumerate(seen.clean):
        corrections[facts.of_clean(layer)] = fit.correction().float()
    told = {
        "errors": {pair: (fit.error(), fit.error(fixed[pair])) for pair, fit in pooled.items()},
        "clean": [(fit.error(), fit.error(fit.correction())) for fit in seen.clean],
        "looks": looks,
    }
    return FeatureProfile(facts, corrections), told


def _compare(seen: Watched, film: Stream, latent: range, flows: Sequence[Tensor], place: int) -> None:
    """What the passes of a chunk left, pass against pass."""
    held, steps = film.state.residuals[0], len(film.engine.policies.plan.levels)
    layers, frames = film.state.kv[0].shape.layers, range(latent.start, latent.stop)
    added = [held.get(steps + step, frames) for step in range(steps)]
    for target in range(steps):
        for source in range(target):
            fit = seen.fits.setdefault((place, source, target), AffineFit(added[0].shape[-1]))
            fit.add(added[source], added[target])
    if not seen.clean:
        seen.clean.extend(AffineFit(added[0].shape[-1]) for _ in range(layers))
    for layer, fit in enumerate(seen.clean):
        fit.add(held.get(2 * steps + layer, frames), held.get(2 * steps + layers + layer, frames))
    inputs = [held.get(step, frames) for step in range(steps)]
    for step in range(1, steps):
        seen.changes.append((_change(inputs[step], inputs[step - 1]), _change(flows[step], flows[step - 1])))


def _change(now: Tensor, before: Tensor) -> float:
    """As a tap compares."""
    return float((now - before).abs().mean() / before.abs().mean())


def _polynomial(points: Sequence[tuple[float, float]], degree: int) -> tuple[float, ...]:
    """From the change of the input to that of the flow, highest coefficient first."""
    inputs, outputs = np.array(points, np.float64).T
    return tuple(float(each) for each in np.polyfit(inputs, outputs, degree))


class _Attention:
    """Where the queries of the last denoising pass look, by layer: [F * T], the mean over queries and heads."""

    def __init__(self, film: Stream) -> None:
        self._film, self.of_layer = film, dict[int, Tensor]()

    def __enter__(self) -> dict[int, Tensor]:
        model: CausalWanTransformer3DModel = self._film.engine.transformer  # pyright: ignore[reportAssignmentType]
        self._handles = [
            block.attn1.register_forward_pre_hook(partial(self._watch, layer))
            for layer, block in enumerate(model.blocks)
        ]
        return self.of_layer

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, layer: int, attn: Any, args: tuple[Any, ...]) -> None:
        hidden, context = args[0], args[3]
        assert isinstance(context, SelfContext)
        if context.only_keys:
            return
        query, key, _ = project_self(attn, hidden)
        query, key = rotate(query, context.cos, context.sin), rotate(key, context.cos, context.sin)
        some = torch.linspace(0, query.shape[1] - 1, min(_QUERIES, query.shape[1])).long()
        scores = torch.einsum("bqnd,bknd->bnqk", query[:, some], key).float() * query.shape[-1] ** -0.5
        self.of_layer[layer] = scores.softmax(-1).mean((0, 1, 2))


def _look(seen: Watched, attention: dict[int, Tensor], pixels: NDArray[np.uint8], film: Stream) -> None:
    """How much of what moves is looked at, in shares of how much of everything is."""
    shape = film.state.kv[0].shape
    frames = film.engine.policies.plan.chunk
    shown = torch.from_numpy(pixels[-4 * frames :]).float().mean(-1) / 255
    moved = (shown[1:] - shown[:-1]).abs()
    moved = torch.cat([moved[:1], moved]).unflatten(0, (frames, -1)).amax(1)
    if float(moved.mean()) < _STILL / 10 or float(moved.max()) < _STILL:
        return
    motion = F.adaptive_avg_pool2d(moved[:, None], (shape.rows, shape.columns)).flatten()
    moves = motion > motion.mean() + motion.std()
    if not bool(moves.any()):
        return
    for layer, weight in attention.items():
        high = (weight > weight.mean()).float()
        seen.looks[layer].append(float(high[moves].mean() / high.mean().clamp_min(1e-9)))
