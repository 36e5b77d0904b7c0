"""What a render says when it is done: of a feature cache what was really used again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import RenderFailure
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened
from app.record import sidecar
from app.record.request import request_of
from pipelines.presets import PRESETS
from pipelines.types import Chunk, Controls, Reused
from tests.app_doubles import Opener, PaintedStream
from tests.render.test_render import film_request, run

CACHED = EngineRequest(replace(PRESETS["embedded"], feature_cache="clean-pass"))


class ReusingStream(PaintedStream):
    """Every chunk uses one layer more again than the one before."""

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        chunk = super().next_chunk(controls, decode=decode)
        return replace(chunk, reused=Reused(100 * chunk.index, 1000, chunk.index > 0, 5))


class ReusingOpener(Opener):
    """Opens one in the engine's place."""

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        opened = super().__call__(request, seed)
        stream = ReusingStream(seed, self.before)
        return replace(opened, stream=stream, save=stream.save, restore=stream.restore)


def test_a_render_says_what_was_used_again_also_of_what_was_made_before_it_went_on(tmp_path: Path) -> None:
    def end(index: int) -> None:
        if index == 3:
            raise RuntimeError("the power went")

    request = replace(film_request(tmp_path, duration="60f", segment_chunks=1), engine=CACHED)
    with pytest.raises(RenderFailure):
        run(request, ReusingOpener(end))
    code, printed = run(replace(request, resume=True), ReusingOpener())
    assert code == 0
    # 6 chunks: 0 + 100 + ... + 500 layers; three of them were made before the power went.
    said = "clean-pass used features again in 5 of 30 passes and spared 1,500 of 6,000 layers (25 %)."
    assert said in " ".join(printed.split())
    told = [chunk.reused for chunk in sidecar.read(tmp_path / "out.json").chunks]
    assert [each.layers for each in told if each is not None] == [0, 100, 200, 300, 400, 500]


def test_a_cache_that_did_nothing_says_so_and_none_says_nothing(tmp_path: Path) -> None:
    request = replace(film_request(tmp_path, "a red ball", duration="9f"), engine=CACHED)
    assert "clean-pass used nothing again in 5 passes" in " ".join(run(request, ReusingOpener())[1].split())
    _, printed = run(replace(film_request(tmp_path, "a red ball", duration="9f", overwrite=True), json_progress=True))
    assert "reused" not in json.loads(printed.splitlines()[-1])
    _, printed = run(replace(request, overwrite=True, json_progress=True), ReusingOpener())
    assert json.loads(printed.splitlines()[-1])["reused"] == {
        "layers": 0,
        "of_layers": 1000,
        "passes": 0,
        "of_passes": 5,
    }


def test_an_encoder_preset_changes_the_file_is_written_down_and_changes_no_picture(tmp_path: Path) -> None:
    found: dict[str, tuple[bool, str]] = {}
    for preset in ("veryfast", "ultrafast"):
        folder = tmp_path / preset
        folder.mkdir()
        assert run(replace(film_request(folder, "a red ball", duration="9f"), encoder_preset=preset))[0] == 0
        record = sidecar.read(folder / "out.json")
        assert (
            request_of(
                record.config, seed=record.seed, model="embedded", source="it", output=folder / "again.mp4"
            ).encoder_preset
            == preset
        )
        # x264 writes its options into the film; without arithmetic coding is what ultrafast alone goes
        found[preset] = b"cabac=0" in (folder / "out.mp4").read_bytes(), record.film.sha256
    assert [plain for plain, _ in found.values()] == [False, True]
    assert len({sha256 for _, sha256 in found.values()}) == 1
