"""Films that begin with given pictures: under every preset they are shown, remembered, and gone on from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.types import Pass, Row
from pipelines.beginning import begin_with, refer_to
from pipelines.build import Components, build_stream
from pipelines.lead_in import ramp
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from pipelines.types import Chunk, pixel_range
from tests.tiny import FOX, FakeText, tiny_autoencoder, tiny_engine, tiny_stream, tiny_transformer

CARD = {"name": "tiny", "sizes": [[32, 48]], "plans": ["serial-clean"], "fps": 16}


@pytest.fixture(scope="module")
def components() -> Components:
    return Components("tiny", tiny_transformer(num_layers=1), tiny_autoencoder(), FakeText(), CARD)  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (count, 32, 48, 3), np.uint8)


def begun(stream: Stream, parts: list[int], seed: int = 0) -> list[Chunk]:
    return begin_with(stream, pictures(pixel_range(sum(parts) - 1).stop, seed), FOX, parts)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_on_from_pictures(name: str, components: Components) -> None:
    preset = PRESETS[name]
    first, films = preset.first_chunk or preset.chunk, list[NDArray[np.uint8]]()
    for seed in (0, 1):
        stream = build_stream(preset, components, seed=3, untrained=True)
        given = begun(stream, [first, preset.chunk], seed)
        film = [*given, stream.next_chunk(FOX), stream.next_chunk(FOX)]
        assert [chunk.index for chunk in film] == [0, 1, 2, 3]
        assert [frame for chunk in film for frame in chunk.latent] == list(range(film[-1].latent.stop))
        assert [frame for chunk in film for frame in chunk.pixel] == list(range(film[-1].pixel.stop))
        assert all(chunk.pixels is not None and len(chunk.pixels) == len(chunk.pixel) for chunk in film)
        assert film[2].pixels is not None
        films.append(film[2].pixels)
    assert not np.array_equal(*films), "what was given is not seen by what comes next"


def test_what_is_shown_is_what_the_decoder_makes_of_the_pictures(components: Components) -> None:
    stream = build_stream(PRESETS["embedded"], components, seed=3, untrained=True)
    given = begun(stream, [3, 3])
    again = build_stream(PRESETS["embedded"], components, seed=4, untrained=True)
    for chunk, other in zip(given, begun(again, [3, 3]), strict=True):
        assert chunk.sha256 == other.sha256, "no noise, and no seed, is in it"
    assert given[0].pixels is not None
    assert given[0].pixels.std() > 1


def test_pictures_that_do_not_fit_are_refused_and_nothing_has_changed(components: Components) -> None:
    stream = build_stream(PRESETS["embedded"], components, seed=3, untrained=True)
    for wrong in (pictures(8), pictures(9)[:, :16], pictures(9).astype(np.float32)):
        with pytest.raises(ValueError, match=r"begin with uint8 pictures \[9, 32, 48, 3\]"):
            begin_with(stream, wrong, FOX, [3])  # type: ignore[arg-type]
    assert stream.state.cur == 0
    begun(stream, [3])
    with pytest.raises(ValueError, match="has begun"):
        begun(stream, [3])
    with pytest.raises(ValueError, match="has none"):
        begin_with(tiny_stream(tiny_engine()), pictures(9), FOX, [3])


# ------------------------------------------------------------------ a reference, and what leads in from it


@pytest.mark.parametrize("levels", [(1000.0, 750.0, 500.0, 250.0), (1000.0, 600.0), (1000.0,)])
def test_what_leads_in_waits_at_its_own_levels_until_the_film_s_have_come_down(levels: tuple[float, ...]) -> None:
    seen: list[tuple[tuple[float, ...], tuple[float | None, ...]]] = []
    kept: list[str] = []
    moved: list[list[bool]] = []
    before: list[torch.Tensor] = []

    def watch(work: Pass, row: Row, x: torch.Tensor, *_: object) -> None:
        if work.kind == "denoise":
            if before:
                moved.append([not torch.equal(x[:, i], before[-1][:, i]) for i in range(3)])
            before.append(x.clone())
            seen.append((row.levels, row.to))
        kept.append(work.kind)

    stream = tiny_stream(tiny_engine(levels=levels, autoencoder=tiny_autoencoder()), seed=3, observer=watch)
    assert refer_to(stream, pictures(1)[0], FOX) == 6
    own = ramp(3)
    assert own == (250.0, 500.0, 750.0)
    for at, to in seen:
        assert all(level <= mine for level, mine in zip(at, own, strict=True))
        assert any(level != then for level, then in zip(at, to, strict=True)), "a pass that moves nothing is left out"
    assert seen[-1][1] == (None, None, None)
    for (at, to), change in zip(seen, moved, strict=False):
        assert change == [level != then for level, then in zip(at, to, strict=True)], "who waits is left as it is"
    assert kept.count("clean") == 1, "memory keeps it"
    assert (stream.state.cur, stream.state.chunk, stream.state.levels) == (6, 0, ())
    assert stream.next_chunk(FOX).latent == range(6, 9)


def test_a_film_sees_its_reference_and_other_plans_take_none(components: Components) -> None:
    films = []
    for seed in (0, 0, 1):
        stream = build_stream(PRESETS["embedded"], components, seed=3, untrained=True)
        refer_to(stream, pictures(1, seed)[0], FOX)
        films.append([stream.next_chunk(FOX).sha256 for _ in range(2)])
    assert films[0] == films[1]
    assert films[0][1] != films[2][1]
    with pytest.raises(ValueError, match="has begun"):
        refer_to(stream, pictures(1)[0], FOX)
    for name in ("rolling-forcing", "streamdiffusion-v2"):
        stream = build_stream(PRESETS[name], components, seed=3, untrained=True)
        with pytest.raises(ValueError, match="choose a preset with a serial plan"):
            refer_to(stream, pictures(1)[0], FOX)
        assert stream.state.cur == 0
