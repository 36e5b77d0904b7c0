"""`--image` and `--extend`: films that begin with a picture or a clip, resumed, replayed, and what cannot be."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from app.config.lengths import Rhythm
from app.config.settings import given_by_flags, resolve
from app.errors import RenderFailure, UsageMistake
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened, stream_of
from app.media.fit import Fit
from app.record import sidecar
from app.record.beginning import read_beginning
from app.record.provenance import provenance_of
from app.record.request import RenderRequest, request_of
from app.render.batch import RunFlags, film_requests
from app.render.beginning import begun_with, last_pictures
from app.render.exporting import export
from app.render.filming import film_script
from app.render.render import render
from app.render.replay import replay
from app.script.script import Script
from pipelines.build import Components
from pipelines.presets import PRESETS
from tests.media.clips import number_of, numbered, write_clip
from tests.media.test_video import decode
from tests.tiny import FakeText, tiny_autoencoder, tiny_transformer


class Known(FakeText):
    """Knows every word."""

    def unknown_words(self, prompt: str) -> dict[str, tuple[str, ...]]:
        return {}


@cache
def components() -> Components:
    card = {"name": "tiny", "sizes": [[32, 48]], "plans": ["serial-clean"], "fps": 16}
    return Components("tiny", tiny_transformer(num_layers=1), tiny_autoencoder(), Known(), card)  # type: ignore[arg-type]


class Tiny:
    """Opens streams of the tiny networks; ends the process, as it were, before a chunk."""

    def __init__(self, kill: int = -1) -> None:
        self.kill, self.made = kill, 0

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        from app.loading.model import Loaded

        loaded = Loaded("embedded", components(), "cpu", 1, lambda: 2**20, request)
        opened = stream_of(loaded, replace(request, untrained=True), seed)
        usual = opened.stream.next_chunk

        def next_chunk(*given: object, **more: object) -> object:
            if self.made == self.kill:
                raise KeyboardInterrupt
            self.made += 1
            return usual(*given, **more)  # type: ignore[arg-type]

        opened.stream.next_chunk = next_chunk  # type: ignore[method-assign]
        return opened


def film_request(
    output: Path,
    *,
    image: Path | None = None,
    extend: Path | None = None,
    reference: Path | None = None,
    **more: object,
) -> RenderRequest:
    named = {"image": image, "extend": extend, "reference": reference}
    given = {name: str(path) for name, path in named.items() if path is not None}
    flags = {"prompt": ["a red ball"], "output": str(output), "duration": "45f", "scale": 1, "crf": 6, "seed": 7}
    (request,) = film_requests(resolve([given_by_flags({**flags, **given})]), RunFlags())
    return replace(request, segment_chunks=2, **more)  # type: ignore[arg-type]


def run(request: RenderRequest, opener: Tiny | None = None) -> tuple[int, str]:
    printed = io.StringIO()
    code = render(request, console=Console(file=printed, width=200), opener=opener or Tiny())
    return code, printed.getvalue()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    pixels = np.full((90, 90, 3), 40, np.uint8)
    pixels[:, 45:] = (220, 200, 60)
    Image.fromarray(pixels).save(path)
    return path


def test_a_film_begins_with_a_picture_is_replayed_and_needs_the_same_one(picture: Path, tmp_path: Path) -> None:
    assert run(film_request(tmp_path / "out.mp4", image=picture))[0] == 0
    assert run(film_request(tmp_path / "plain.mp4"))[0] == 0
    begun, plain = decode(tmp_path / "out.mp4"), decode(tmp_path / "plain.mp4")
    assert begun.shape == plain.shape
    assert np.abs(begun[20:].astype(int) - plain[20:]).mean() > 0.5, "the film goes on from the picture"
    record = sidecar.read(tmp_path / "out.json")
    assert record.config.beginning is not None
    assert (record.config.beginning.kind, record.config.beginning.input) == ("image", "cat.png")
    console = Console(file=io.StringIO())
    code = replay(tmp_path / "out.mp4", None, check=True, overwrite=False, console=console, opener=Tiny())
    assert code == 0
    moved = picture.rename(tmp_path / "moved.png")
    with pytest.raises(UsageMistake, match=r"not here \(cat.png, sha256"):
        replay(tmp_path / "out.mp4", None, check=False, overwrite=True, console=console, opener=Tiny())
    again = {"check": False, "overwrite": True, "console": console, "opener": Tiny()}
    assert replay(tmp_path / "out.mp4", None, video=str(moved), **again) == 0  # type: ignore[arg-type]
    made = sidecar.read(tmp_path / "out-again.json")
    assert made.film.sha256 == record.film.sha256


def test_a_film_refers_to_a_picture_that_it_does_not_show(picture: Path, tmp_path: Path) -> None:
    opener = Tiny()
    assert run(film_request(tmp_path / "out.mp4", reference=picture), opener)[0] == 0
    assert run(film_request(tmp_path / "plain.mp4"))[0] == 0
    out, plain = sidecar.read(tmp_path / "out.json"), sidecar.read(tmp_path / "plain.json")
    assert [chunk.frames for chunk in out.chunks] == [chunk.frames for chunk in plain.chunks], "it counts as any film"
    assert out.film.frames == 45
    assert opener.made == 4, "what leads in is made beside the film"
    assert out.chunks[0].sha256 != plain.chunks[0].sha256
    assert out.config.beginning is not None
    assert (out.config.beginning.kind, out.config.beginning.input) == ("reference", "cat.png")
    shown = decode(tmp_path / "out.mp4")[0].astype(int)
    held = np.asarray(Image.open(picture).resize((48, 32)), dtype=int)
    assert np.abs(shown - np.asarray(Image.fromarray(held.astype(np.uint8)).resize(shown.shape[1::-1]))).mean() > 10
    again = {"check": True, "overwrite": False, "console": Console(file=io.StringIO()), "opener": Tiny()}
    assert replay(tmp_path / "out.mp4", None, **again) == 0  # type: ignore[arg-type]
    with suppress(RenderFailure, KeyboardInterrupt):
        run(film_request(tmp_path / "cut.mp4", reference=picture), Tiny(kill=2))
    begun = film_request(tmp_path / "cut.mp4", reference=picture, resume=True)
    assert run(replace(begun, script=Script(()), beginning=None))[0] == 0
    assert sidecar.read(tmp_path / "cut.json").film.sha256 == out.film.sha256
    rolling = film_request(tmp_path / "b.mp4", reference=picture)
    rolling = replace(rolling, engine=replace(rolling.engine, preset=PRESETS["rolling-forcing"]))
    with pytest.raises(UsageMistake, match="A reference lies clean in the memory of one chunk after the other"):
        run(rolling)
    assert not list(tmp_path.glob("b.*"))


def test_a_film_of_a_picture_that_was_killed_goes_on_to_be_the_same(picture: Path, tmp_path: Path) -> None:
    run(film_request(tmp_path / "whole.mp4", image=picture))
    with suppress(RenderFailure, KeyboardInterrupt):
        run(film_request(tmp_path / "out.mp4", image=picture), Tiny(kill=2))
    opener = Tiny()
    begun = film_request(tmp_path / "out.mp4", image=picture, resume=True)
    code, printed = run(replace(begun, script=Script(()), beginning=None), opener)
    assert code == 0
    assert "Going on from chunk 2" in printed
    whole, out = sidecar.read(tmp_path / "whole.json"), sidecar.read(tmp_path / "out.json")
    assert whole.film.sha256 == out.film.sha256
    assert opener.made < 4, "what lies behind the snapshot alone is made"


def test_a_shot_list_names_the_picture_and_a_flag_replaces_it(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    shots = tmp_path / "lists" / "shots.yaml"
    shots.write_text("image: ../cat.png\nshots:\n- prompt: a red ball\n")
    flags = {"script": str(shots), "output": str(tmp_path / "out.mp4"), "duration": "45f", "scale": 1, "seed": 7}
    (request,) = film_requests(resolve([given_by_flags(flags)]), RunFlags())
    assert run(replace(request, segment_chunks=2, crf=6))[0] == 0
    run(film_request(tmp_path / "flag.mp4", image=picture))
    out, flag = sidecar.read(tmp_path / "out.json"), sidecar.read(tmp_path / "flag.json")
    assert out.config.beginning == flag.config.beginning
    assert out.film.sha256 == flag.film.sha256
    assert str(tmp_path) not in (tmp_path / "out.json").read_text(), "no folder of this machine"
    told = export([request], tmp_path / "again.yaml", fps=16, overwrite=False)
    assert "1 shots" in told
    (again,) = film_requests(resolve([given_by_flags({**flags, "script": str(tmp_path / "again.yaml")})]), RunFlags())
    assert again.beginning is not None
    assert again.beginning.sha256 == flag.config.beginning.sha256  # type: ignore[union-attr]
    with pytest.raises(UsageMistake, match="cannot carry a beginning"):
        export([request], tmp_path / "a.jsonl", fps=16, overwrite=False)
    other = tmp_path / "other.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(other)
    (replaced,) = film_requests(resolve([given_by_flags({**flags, "image": str(other)})]), RunFlags())
    assert replaced.beginning is not None
    assert replaced.beginning.input == str(other)
    picture.write_text("no picture")
    (broken,) = film_requests(resolve([given_by_flags(flags)]), RunFlags())
    with pytest.raises(UsageMistake, match=r"shots.yaml, line 1, image: .*cat.png cannot be read as a picture"):
        run(replace(broken, output=tmp_path / "broken.mp4"))
    picture.unlink()
    with pytest.raises(UsageMistake, match=r"shots.yaml, line 1, image: there is no file .*cat.png to begin with"):
        film_requests(resolve([given_by_flags(flags)]), RunFlags())


def test_a_record_opens_no_file_that_its_script_names(picture: Path, tmp_path: Path) -> None:
    run(film_request(tmp_path / "out.mp4"))
    record = sidecar.read(tmp_path / "out.json")
    script = record.config.script.replace("shots:", f"image: {picture}\nshots:")
    forged = record.model_copy(update={"config": record.config.model_copy(update={"script": script})})
    assert provenance_of(forged, "out.json").script.pictures is None
    request = request_of(forged.config, seed=7, model="tiny", source="out.json", output=tmp_path / "b.mp4")
    assert (request.script.pictures, request.beginning) == (None, None)


def test_a_script_filmed_from_python_begins_with_its_picture(picture: Path, tmp_path: Path) -> None:
    shots = tmp_path / "shots.yaml"
    films = []
    for head in ("image: cat.png\n", ""):
        shots.write_text(f"{head}shots:\n- prompt: a red ball\n")
        stream = Tiny()(film_request(tmp_path / "out.mp4").engine, 7).stream
        films.append(np.stack(film_script(shots, seconds=1.5, stream=stream)))  # type: ignore[arg-type]
    assert films[0].shape == films[1].shape
    assert np.abs(films[0][12:].astype(int) - films[1][12:]).mean() > 0.5


def test_a_film_goes_on_from_the_last_pictures_of_a_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 100, rate=16, options={"crf": "4"})
    frames = last_pictures(clip, 21, 48, 64, 16.0)
    assert [number_of(frame) for frame in frames] == [*range(79, 100)]
    short = write_clip(tmp_path / "short.mp4", 5, rate=16, options={"crf": "4"})
    assert [number_of(frame) for frame in last_pictures(short, 9, 48, 64, 16.0)] == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert run(film_request(tmp_path / "out.mp4", extend=clip, length=None))[0] == 0
    record = sidecar.read(tmp_path / "out.json")
    assert record.config.beginning is not None
    assert record.config.beginning.kind == "extend"


def test_as_many_chunks_are_given_as_are_remembered() -> None:
    assert Rhythm(3, 3).within(12) == [3, 3, 3, 3]
    assert Rhythm(1, 3).within(9) == [1, 3, 3]
    assert Rhythm(3, 3).within(0) == [3]


def test_what_cannot_be_is_refused_before_anything_is_made(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text("no picture")
    output = tmp_path / "out.mp4"
    for given, tells in (
        ({"image": tmp_path / "gone.png"}, "There is no file .*gone.png"),
        ({"image": picture, "extend": picture}, "Give --image, --extend or --reference"),
    ):
        with pytest.raises(UsageMistake, match=tells):
            film_request(output, **given)
    for given, tells in (
        ({"image": tmp_path / "song.txt"}, "cannot be read as a picture"),
        ({"extend": tmp_path / "song.txt"}, "cannot be read as a video"),
    ):
        with pytest.raises(UsageMistake, match=tells):
            run(film_request(output, **given))
    request = film_request(output, image=picture)
    Image.fromarray(numbered(3)).save(picture)
    with pytest.raises(UsageMistake, match="is not what the film was begun with"):
        begun_with(request, Tiny())
    assert not list(tmp_path.glob("out*"))
    assert read_beginning({}) is None
    assert Fit(32, 48).scaled(90, 90) == (48, 48)
