"""What `rivulet profile` finds out: the plan of least error, corrections that correct, and whose file it is."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from cache import FEATURE_CACHES
from cache.features.clean_pass import CleanPass
from cache.features.facts import Facts
from cache.features.planned import Planned
from cache.features.reuse import FeatureCache
from models.wan import CausalWanTransformer3DModel
from pipelines.feature_profile import FeatureProfile, read_profile, write_profile
from pipelines.streaming import Stream
from pipelines.types import Reused
from tests.tiny import FOX, film, gap, tiny_autoencoder, tiny_engine, tiny_stream, tiny_transformer
from training.affine import AffineFit
from training.feature_profile import profile
from training.segmentation import Costs, deal, segmentations
from weights.plain_files import CheckpointError

LEVELS = (1000.0, 800.0, 600.0, 400.0)


def costs(passes: int, seed: int) -> list[list[float]]:
    draw = Random(seed)
    return [[draw.random() if i < t else 0.0 for t in range(passes)] for i in range(passes)]


def cut_by_force(row: Costs, count: int, shortest: int, longest: int) -> float:
    """The least cost over all ways to cut; infinite where none is allowed."""
    passes, best = len(row), float("inf")
    for inner in combinations(range(1, passes), count - 1):
        bounds = (0, *inner, passes)
        parts = [range(a, b) for a, b in pairwise(bounds)]
        if all(shortest <= len(part) <= longest for part in parts):
            best = min(best, sum(row[part.start][t] for part in parts for t in part[1:]))
    return best


@pytest.mark.parametrize(("shortest", "longest"), [(1, 10), (2, 4), (1, 3)])
def test_the_plan_of_a_row_is_the_best_of_all(shortest: int, longest: int) -> None:
    """T26."""
    for passes in range(1, 11):
        row = costs(passes, seed=passes)
        found = segmentations(row, shortest=shortest, longest=longest)
        for count in range(1, passes + 1):
            expected = cut_by_force(row, count, shortest, longest)
            assert (count in found) == (expected < float("inf"))
            if count in found:
                cut = found[count]
                assert abs(cut.cost - expected) < 1e-9
                assert (cut.starts[0], len(cut.starts)) == (0, count)


def test_computed_passes_are_dealt_out_to_rows_as_the_best_of_all_ways() -> None:
    """T26, over (chunk x level)."""
    rows = [costs(4, seed=1), costs(4, seed=2), [[10 * cost for cost in line] for line in costs(4, seed=3)]]
    for computed in range(3, 13):
        cuts = deal(rows, computed, longest=3) if computed > 5 else None
        if cuts is None:
            with pytest.raises(ValueError, match="ask for"):
                deal(rows, computed, longest=2)
            continue
        expected = min(
            sum(cut_by_force(row, count, 1, 3) for row, count in zip(rows, counts, strict=True))
            for counts in product(range(1, 5), repeat=3)
            if sum(counts) == computed
        )
        assert abs(sum(cut.cost for cut in cuts) - expected) < 1e-9
        assert sum(len(cut.starts) for cut in cuts) == computed


def test_a_correction_finds_factor_and_offset_and_never_makes_it_worse() -> None:
    """T26."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, 50, 8, generator=draw, dtype=torch.float64)
    factor, offset = torch.randn(2, 8, generator=draw, dtype=torch.float64)
    exact, noisy, flat = AffineFit(8), AffineFit(8), AffineFit(8)
    for part in x:
        exact.add(part, part * factor + offset)
        noisy.add(part, part * factor + torch.randn(50, 8, generator=draw, dtype=torch.float64))
        flat.add(torch.full_like(part, 3.0), part)
    assert gap(exact.correction(), torch.stack([factor, offset])) < 1e-10
    assert exact.error(exact.correction()) < 1e-6 < exact.error()
    for fit in (noisy, flat, noisy + exact):
        assert fit.error(fit.correction()) <= fit.error() + 1e-12
        assert torch.isfinite(fit.correction()).all()
    y = x * factor + 1
    fit = AffineFit(8)
    fit.add(x, y)
    assert abs(fit.error() - float((y - x).norm() / y.norm())) < 1e-9


# ------------------------------------------------------------------ a model's profile


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer()


def stream_of(model: CausalWanTransformer3DModel, policy: FeatureCache | None, found: FeatureProfile | None) -> Stream:
    engine = tiny_engine(model, levels=LEVELS, autoencoder=tiny_autoencoder())
    policies = engine.policies if policy is None else replace(engine.policies, layers=policy)
    return tiny_stream(replace(engine, policies=policies, corrections=None if found is None else found.corrections))


@pytest.fixture(scope="module")
def found(model: CausalWanTransformer3DModel) -> FeatureProfile:
    return profile(stream_of(model, None, None), ["a red fox runs"], chunks=6, computed=0.75)[0]


def test_a_profile_is_carried_out_as_planned_and_corrects(
    model: CausalWanTransformer3DModel, found: FeatureProfile
) -> None:
    assert sum(map(sum, found.facts.computed)) == 6
    assert all(row[0] for row in found.facts.computed)
    policy = Planned.of(LEVELS, 3, found.facts)
    stream = stream_of(model, policy, found)
    told = [stream.next_chunk(FOX, decode=False).reused or Reused() for _ in range(4)]
    skipped = [4 - sum(row) for row in found.facts.computed] * 2
    assert [each.layers for each in told] == [count * 2 for count in skipped]  # all layers but the first
    exact, films = stream_of(model, None, None), {}
    film(exact, [FOX])
    latents = exact.state.latents.get(range(3))
    for name, facts in (("corrected", found.facts), ("as it is", None)):
        stream = stream_of(model, replace(policy, facts=facts, computed=((True, True, False, True),)), found)
        film(stream, [FOX])
        films[name] = float((stream.state.latents.get(range(3)) - latents).norm())
    assert films["corrected"] < films["as it is"]


def test_a_correction_reaches_the_pass_that_writes_the_memory(
    model: CausalWanTransformer3DModel, found: FeatureProfile
) -> None:
    def keys(policy: FeatureCache | None) -> torch.Tensor:
        stream = stream_of(model, policy, found)
        film(stream, [FOX])
        return torch.cat([stream.state.kv[0].logical(layer)[1].flatten() for layer in range(1, 3)])

    exact = keys(None)
    corrected, plain = (
        float((keys(each) - exact).norm()) for each in (CleanPass.of(LEVELS, 3, found.facts), CleanPass(LEVELS, 3))
    )
    assert corrected < plain
    assert CleanPass.of((1000.0, 500.0), 3, found.facts).facts is None, "it was fitted for another last level"


def test_a_profile_comes_back_from_its_file_and_no_other_is_taken(
    model: CausalWanTransformer3DModel, found: FeatureProfile, tmp_path: Path
) -> None:
    path = tmp_path / "profile.safetensors"
    assert read_profile(path, model) is None
    write_profile(found, model, path)
    again = read_profile(path, model)
    assert again is not None
    assert again.facts == found.facts
    assert torch.equal(again.corrections, found.corrections)
    with pytest.raises(CheckpointError, match="of another model"):
        read_profile(path, tiny_transformer(seed=5))
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "1", "facts": '{"layers": 3}'})
    with pytest.raises(CheckpointError, match="is missing"):
        read_profile(path, model)
    path.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="run rivulet profile"):
        read_profile(path, model)


def test_who_goes_by_a_profile_says_so_where_there_is_none_or_another() -> None:
    facts = Facts(3, LEVELS)
    for name in ("planned", "profiled"):
        with pytest.raises(ValueError, match="run rivulet profile"):
            FEATURE_CACHES[name].of(LEVELS, 3, None)
        with pytest.raises(ValueError, match="run rivulet profile"):
            FEATURE_CACHES[name].of(LEVELS, 3, facts)
    with pytest.raises(ValueError, match="2 or other ones"):
        Planned.of((1000.0, 500.0), 3, replace(facts, computed=((True,) * 4,)))
    assert {name for name, kind in FEATURE_CACHES.items() if kind.by_profile()} == {
        "clean-pass",
        "planned",
        "profiled",
        "teacache",
    }
