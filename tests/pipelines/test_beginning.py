"""Films that begin with given pictures: under every preset they are shown, remembered, and gone on from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.beginning import begin_with
from pipelines.build import Components, build_stream
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
