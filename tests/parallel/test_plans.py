"""Plans in integers: what they refuse, how they cut work, and which share of a memory is whose."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from app.config import readers
from cache.deep_forcing import DeepForcing
from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.layer_plan import LayerPlan, Tap
from cache.none import NoMemory
from cache.quantised import KV_STORAGES
from cache.storage import Dense
from parallel import MOST_RANKS, PARALLEL_PLANS, Facts, choose_plan, read_plan
from parallel.cuts import cut
from parallel.parts import joined, part_of
from parallel.plan import Costs
from parallel.share import Share
from pipelines.components import DEVICES
from pipelines.tree import copied
from schedulers.batch import StreamBatch
from schedulers.buffer import MovingBuffer
from schedulers.serial import Serial

BATCH = StreamBatch((1000.0, 750.0, 500.0, 250.0), chunk=1)
LEVEL_FACTS = Facts("streamdiffusion-v2", BATCH, SinkWindow(6, 2, keeps="level"), layers=6, heads=7)
JOINT_FACTS = Facts("streamdit", MovingBuffer((1000.0, 500.0), chunk=4), NoMemory(), layers=6, heads=7)
CLEAN_FACTS = Facts("longlive", Serial((1000.0, 500.0)), SinkWindow(9, 3), layers=6, heads=7)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("levels=2", ("levels", 2)), (" Ulysses=4 ", ("ulysses", 4)), ("auto", ("auto", None)), ("single", ("single", 1))],
)
def test_a_plan_is_read_as_people_write_it(written: str, expected: tuple[str, int | None]) -> None:
    assert read_plan(written) == expected


@pytest.mark.parametrize(
    "written", ["level=2", "levels=0", "levels=65", "levels=two", "levels=²", "", "single=2", "=2"]
)
def test_what_is_no_plan_is_one_sentence_with_what_to_write(written: str) -> None:
    with pytest.raises(ValueError, match=r"choose|give"):
        read_plan(written)


@pytest.mark.parametrize(
    ("name", "ranks", "facts", "reason"),
    [
        ("levels", 5, LEVEL_FACTS, "too few for 5 ranks"),
        ("levels", 2, CLEAN_FACTS, "one memory for all"),
        ("layers", 7, CLEAN_FACTS, "too few for 7 ranks"),
        ("ulysses", 8, CLEAN_FACTS, "too few for 8 ranks"),
        ("layers", 2, Facts("a", CLEAN_FACTS.noise, CLEAN_FACTS.cache, 6, 7, features=True), "feature_cache"),
        ("ulysses", 2, Facts("a", CLEAN_FACTS.noise, CLEAN_FACTS.cache, 6, 7, features=True), "feature_cache"),
        ("levels", 2, Facts("a", BATCH, LEVEL_FACTS.cache, 6, 7, guidance="residual-once"), "residual-once"),
        (
            "levels",
            2,
            Facts("a", Serial((9.0, 5.0), step="unipc", memory="level"), LEVEL_FACTS.cache, 6, 7),
            "remember",
        ),
        ("clips", 2, CLEAN_FACTS, "no joint window"),
        ("clips", 9, JOINT_FACTS, "too few for 9 ranks"),
        ("auto", 9, CLEAN_FACTS, "no plan spreads"),
    ],
)
def test_a_plan_that_cannot_run_a_film_says_why_and_what_can(name: str, ranks: int, facts: Facts, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        choose_plan(name, ranks, facts)


def test_the_settings_allow_as_many_ranks_as_the_plans() -> None:
    assert readers.MOST_RANKS == MOST_RANKS
    assert readers.DEVICES == DEVICES


def test_auto_takes_levels_where_there_are_some_and_heads_else() -> None:
    names = {kind: name for name, kind in PARALLEL_PLANS.items()}
    assert names[type(choose_plan("auto", 4, LEVEL_FACTS))] == "levels"
    assert names[type(choose_plan("auto", 6, LEVEL_FACTS))] == "ulysses"
    assert names[type(choose_plan("auto", 2, CLEAN_FACTS))] == "ulysses"
    assert names[type(choose_plan("auto", 1, CLEAN_FACTS))] == "single"


def test_cuts_are_as_good_as_the_best_of_all_cuts() -> None:
    draw = random.Random(4)
    for _ in range(60):
        costs = [draw.choice((1.0, 1.0, 2.5, 0.5)) for _ in range(draw.randint(1, 8))]
        beside = [draw.choice((0.0, 1.0, 4.0)) for _ in range(draw.randint(1, len(costs)))]
        parts = cut(costs, beside)
        assert [piece for part in parts for piece in part] == list(range(len(costs)))
        assert all(parts)

        def dearest(stops: tuple[int, ...], costs: list[float] = costs, beside: list[float] = beside) -> float:
            edges = [0, *stops, len(costs)]
            return max(sum(costs[a:b]) + beside[rank] for rank, (a, b) in enumerate(itertools.pairwise(edges)))

        best = min(map(dearest, itertools.combinations(range(1, len(costs)), len(beside) - 1)))
        assert dearest(tuple(part.stop for part in parts[:-1])) == pytest.approx(best)
    with pytest.raises(ValueError, match="cannot be cut"):
        cut([1.0], [0.0, 0.0])


def test_rank_0_gets_fewer_levels_the_more_it_has_to_do_beside_them() -> None:
    levels = choose_plan("levels", 2, LEVEL_FACTS)
    assert [len(share.lanes) for share in levels.shares(LEVEL_FACTS, Costs(1.0, 0.0), None)] == [2, 2]
    assert [len(share.lanes) for share in levels.shares(LEVEL_FACTS, Costs(1.0, 1.5), None)] == [1, 3]


def test_a_plan_of_layers_is_counted_from_0_in_a_part_of_them() -> None:
    plan = LayerPlan(skip=(range(1, 4),), keys=(range(5, 6),), flow=False)
    assert plan.part(range(3)) == LayerPlan(skip=(range(1, 3),), flow=False)
    assert plan.part(range(3, 6)) == LayerPlan(skip=(range(1),), keys=(range(2, 3),), flow=False)
    with pytest.raises(ValueError, match="run all"):
        LayerPlan(taps=(Tap(0, 0, "keep"),)).part(range(3))


@pytest.mark.parametrize("storage", [Dense, KV_STORAGES["int8"]])
@pytest.mark.parametrize("by", ["lanes", "layers", "heads"])
def test_parts_of_a_memory_put_together_are_the_memory(storage: object, by: str) -> None:
    shape = KVShape(layers=3, batch=1, capacity=4, own=2, rows=2, columns=3, heads=5, head_dim=4)
    scorer = DeepForcing(window=12, sink=3, budget=6, recent=3).scorer
    whole = [KVStore(shape, lane=lane, scorer=scorer, storage=storage) for lane in range(2)]  # pyright: ignore
    generator = torch.Generator().manual_seed(0)
    for store in whole:
        for tensor in store.tensors().values():
            tensor.copy_((torch.rand(tensor.shape, generator=generator) * 100).to(tensor.dtype))
    lanes = tuple(
        copied(store) | {"means": {"1": torch.rand(2, 3, 1, 6, 5, 4, generator=generator)}} for store in whole
    )
    cuts = {
        "lanes": [(range(1), range(3), range(5)), (range(1, 2), range(3), range(5))],
        "layers": [(range(2), range(1), range(5)), (range(2), range(1, 3), range(5))],
        "heads": [(range(2), range(3), range(3)), (range(2), range(3), range(3, 5))],
    }
    shares = [Share(*each) for each in cuts[by]]
    parts = [part_of(lanes, share) for share in shares]
    for share, part in zip(shares, parts, strict=True):  # what a rank's own stores would take
        for lane, held in enumerate(part):
            own = KVStore(share.shape(shape, lane), scorer=scorer if lane in share.lanes else None, storage=storage)  # pyright: ignore
            assert {name: tensor.shape for name, tensor in own.tensors().items()} == {
                name: each.shape for name, each in held.items() if isinstance(each, torch.Tensor)
            }
    for one, other in zip(joined(parts, shares), lanes, strict=True):
        assert one.keys() == other.keys()
        for name, each in other.items():
            same = torch.equal(one[name], each) if isinstance(each, torch.Tensor) else True
            assert same, name
        assert torch.equal(one["means"]["1"], other["means"]["1"])
        assert (one["entries"], one["free"]) == (other["entries"], other["free"])
