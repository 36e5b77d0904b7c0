"""What a dry run predicts is what the film then takes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

from app.config.lengths import Length
from app.record.request import RenderRequest
from app.render import estimate
from app.render.render import render
from app.script.script import script_of
from pipelines.types import Transition
from tests.app_doubles import Opener
from tests.render.test_render import film_request


def filmed(request: RenderRequest) -> int:
    """Bytes that a render leaves."""
    assert render(request, console=Console(quiet=True), opener=Opener()) == 0
    return sum(file.stat().st_size for file in request.output.parent.iterdir())


@pytest.mark.parametrize("name", ["out.mp4", "out_%06d.png", "out.gif"])
@pytest.mark.parametrize("shots", [1, 5])
def test_the_film_takes_the_disk_it_was_said_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shots: int
) -> None:
    prompts = [f"a ball number {number}" for number in range(shots)]
    request = replace(
        film_request(tmp_path, duration="40s", scale=4, segment_chunks=24),
        script=script_of(prompts, transition=Transition("soft", 2)),
        output=tmp_path / name,
    )
    opener = Opener()
    monkeypatch.setattr(estimate, "open_stream", opener)
    timeline, told = estimate.estimate_film(request)
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
    assert len(opener.streams[0].asked) < timeline.chunks / 3, "a dry run renders a little"
    assert told.film_bytes == pytest.approx(filmed(request), rel=0.1)
    assert (told.disk_bytes > 1.5 * told.film_bytes) == (name == "out.mp4"), "an MP4 grows beside its final copy"
    assert f"{min(shots, 2)} shots" in told.basis


def test_a_long_film_is_tried_in_more_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "open_stream", Opener())
    request = film_request(tmp_path, *(f"a ball number {number}" for number in range(90)))
    _, short = estimate.estimate_film(replace(request, length=Length(20 * 90, "f")))
    _, long = estimate.estimate_film(replace(request, length=Length(900, "s")))
    assert "2 shots" in short.basis
    assert "5 shots" in long.basis


def test_a_slow_model_is_tried_on_a_few_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener()
    monkeypatch.setattr(estimate, "open_stream", opener)
    monkeypatch.setattr(estimate, "PATIENCE", 0.0)
    estimate.estimate_film(film_request(tmp_path, duration="40s"))
    assert len(opener.streams[0].asked) == estimate.FEWEST


def test_a_film_of_one_chunk_is_its_own_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "open_stream", Opener())
    request = replace(film_request(tmp_path, "a ball", duration="5f"), fps=Fraction(16))
    timeline, told = estimate.estimate_film(request)
    assert timeline.chunks == 1
    assert told.film_bytes == pytest.approx(filmed(request), rel=0.35)  # chapters and script weigh more than 5 frames
