"""Excerpts of a film: the poster is of its middle, a GIF of the seconds that were asked for."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from app.errors import UsageMistake
from app.media.excerpts import GIF_RATE, gif, poster
from app.media.mp4 import FilmWriter


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds that get lighter."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    writer = FilmWriter(path, width=48, height=32, fps=Fraction(16))
    writer.write(np.stack([np.full((32, 48, 3), 40 + 4 * n, np.uint8) for n in range(48)]))
    writer.close()
    return path


def light(picture: Image.Image) -> float:
    return float(np.asarray(picture.convert("RGB")).mean())


def test_the_poster_is_of_the_middle(film: Path) -> None:
    assert light(Image.open(BytesIO(poster(film, 48)))) == pytest.approx(40 + 4 * 24, abs=4)
    with pytest.raises(UsageMistake, match="no frame there"):
        poster(film, 480)


def test_a_gif_shows_the_seconds_that_were_asked_for_at_a_rate_that_viewers_keep(film: Path) -> None:
    animation = Image.open(BytesIO(gif(film, 1.0, 1.5)))
    frames = [light(frame) for frame in ImageSequence.Iterator(animation)]
    assert len(frames) == 12  # every second one of 16 a second is at most GIF_RATE
    assert GIF_RATE < 16
    assert frames[0] == pytest.approx(40 + 4 * 16, abs=4)
    assert frames[-1] == pytest.approx(40 + 4 * 38, abs=4)
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(animation)) == pytest.approx(1500, abs=10)


@pytest.mark.parametrize(("begin", "seconds"), [(-1, 1), (float("nan"), 1), (0, 0), (0, 11), (9, 1)])
def test_seconds_that_cannot_be_are_a_sentence(film: Path, begin: float, seconds: float) -> None:
    with pytest.raises(UsageMistake, match="Give"):
        gif(film, begin, seconds)
