"""The render job and its timeline, with a stream that paints without a model."""

from __future__ import annotations

import hashlib
import io
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from app.config.lengths import Rhythm, parse_length
from app.errors import RenderFailure, UsageMistake, explain
from app.loading.engine_request import EngineRequest
from app.record import sidecar
from app.record.request import RenderRequest
from app.render.progress import clock, span
from app.render.render import render
from app.script.script import script_of
from app.script.shot_list import parse_native
from app.script.timeline import Timeline
from pipelines.presets import PRESETS
from pipelines.types import Transition, pixel_range
from tests.app_doubles import HEIGHT, WIDTH, Opener, PaintedStream
from tests.media.test_video import decode

RECACHE = Transition("recache")


def film_request(
    folder: Path,
    *prompts: str,
    duration: str = "40f",
    seed: int = 7,
    fps: Fraction | None = None,
    transition: Transition = RECACHE,
    scale: int = 2,
    overwrite: bool = False,
    resume: bool = False,
    segment_chunks: int = 3,
    threads: int | None = None,
) -> RenderRequest:
    return RenderRequest(
        script=script_of(prompts or ("a red ball", "a blue star"), transition=transition),
        output=folder / "out.mp4",
        length=parse_length(duration),
        engine=EngineRequest(PRESETS["embedded"], threads=threads),
        seed=seed,
        fps=fps,
        scale=scale,
        overwrite=overwrite,
        resume=resume,
        segment_chunks=segment_chunks,
    )


def run(request: RenderRequest, opener: Opener | None = None) -> tuple[int, str]:
    """Render and return the exit code and what was printed."""
    printed = io.StringIO()
    code = render(request, console=Console(file=printed, width=100), opener=opener or Opener())
    return code, printed.getvalue()


def never(request: EngineRequest, seed: int) -> None:
    raise AssertionError("the model was loaded before the mistake was refused")


# ------------------------------------------------------------------ the film and its sidecar


def test_the_film_is_as_long_as_asked_and_its_last_chunk_is_trimmed(tmp_path: Path) -> None:
    code, _ = run(film_request(tmp_path, duration="40f"))
    assert code == 0
    assert decode(tmp_path / "out.mp4").shape == (40, 2 * HEIGHT, 2 * WIDTH, 3)
    chunks = sidecar.read(tmp_path / "out.json").chunks
    assert [chunk.shown for chunk in chunks] == [9, 12, 12, 7]
    assert chunks[-1].frames == (33, 45)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.json", "out.mp4", "out.vtt"]


def test_the_sidecar_tells_everything_that_made_the_film(tmp_path: Path) -> None:
    opener = Opener()
    run(film_request(tmp_path, duration="40f", seed=11), opener)
    record = sidecar.read(tmp_path / "out.json")
    assert (record.format, record.status, record.seed) == (4, "whole", 11)
    assert parse_native(record.config.script, "it").prompts == ("a red ball", "a blue star")
    assert (record.config.preset, record.config.threads, record.config.device) == ("embedded", 1, "cpu")
    assert (record.model.name, record.model.sha256) == ("embedded", "0" * 64)
    assert {"python", "torch", "diffusers", "numpy", "av", "rivulet"} <= record.versions.keys()
    assert (record.film.frames, record.film.seconds, record.film.scale) == (40, 2.5, 2)
    first, second = record.shots
    assert (first.requested.frame, first.actual.frame) == (0, 0)
    assert (second.requested.frame, second.requested.chunk) == (20, 1)
    assert (second.actual.frame, second.actual.latent, second.actual.chunk) == (21, 6, 2)
    assert [chunk.prompt for chunk in record.chunks] == ["a red ball"] * 2 + ["a blue star"] * 2
    assert all({"denoise", "decode", "encode"} <= chunk.seconds.keys() for chunk in record.chunks)
    painted = PaintedStream(11)
    chunks = [painted.next_chunk(asked) for asked in opener.streams[0].asked]
    assert [chunk.sha256 for chunk in record.chunks] == [chunk.sha256 for chunk in chunks]
    digest = hashlib.sha256()
    for chunk, shown in zip(chunks, (9, 12, 12, 7), strict=True):
        digest.update(f"{chunk.sha256} {shown}\n".encode())
    assert record.film.sha256 == digest.hexdigest()


def test_the_same_command_twice_makes_the_same_film(tmp_path: Path) -> None:
    films: list[bytes] = []
    records: list[dict[str, object]] = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        folder = tmp_path / name
        folder.mkdir()
        run(film_request(folder, seed=seed))
        films.append((folder / "out.mp4").read_bytes())
        record = sidecar.read(folder / "out.json").model_dump(exclude={"timing", "chunks"})
        records.append(record)
    assert films[0] == films[1] != films[2]
    assert records[0] == records[1]
    assert records[0]["film"] != records[2]["film"]


def test_a_drawn_seed_is_printed_and_saved(tmp_path: Path) -> None:
    opener = Opener()
    _, printed = run(film_request(tmp_path, seed=-1), opener)
    seed = sidecar.read(tmp_path / "out.json").seed
    assert 0 <= seed == opener.streams[0].seed
    assert f"seed {seed}" in printed


def test_another_frame_rate_changes_the_film_and_not_its_seconds(tmp_path: Path) -> None:
    run(film_request(tmp_path, duration="2s", fps=Fraction(24000, 1001)))
    film = sidecar.read(tmp_path / "out.json").film
    assert (film.frames, round(film.fps, 3)) == (48, 23.976)
    assert len(decode(tmp_path / "out.mp4")) == 48


def test_every_chunk_has_its_line_and_every_switch_both_places(tmp_path: Path) -> None:
    _, printed = run(film_request(tmp_path, "a red bal rolls", "a blue star", duration="40f"))
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    assert [line[:5] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert lines[2].startswith("[3/4] 00:01.3  frame 21  latent 6  fps ")
    assert lines[2].endswith('mem 0.5G  drift -  "a blue star"')
    assert "asked t=1.25s  frame 20  latent 5  chunk 1, begins t=1.31s  frame 21  latent 6  chunk 2" in printed
    told = 'does not know "bal"; say instead: ball'
    assert printed.index(told) < printed.index("[1/4]")
    assert printed.rindex(told) > printed.index("first frame after"), "what was said first has scrolled away"
    assert "first frame after" in printed


def test_the_transition_reaches_the_stream(tmp_path: Path) -> None:
    opener = Opener()
    run(film_request(tmp_path, transition=Transition("soft", 2)), opener)
    assert {controls.transition for controls in opener.streams[0].asked} == {Transition("soft", 2)}
    with pytest.raises(UsageMistake, match="--transition_chunks 2 or less"):
        run(film_request(tmp_path, transition=Transition("soft", 3), overwrite=True))


# ------------------------------------------------------------------ pictures instead of a film


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out_%06d.png"])
def test_a_film_can_be_pictures(tmp_path: Path, name: str) -> None:
    request = replace(film_request(tmp_path), output=tmp_path / name)
    code, printed = run(request)
    assert code == 0
    assert f"{name}: 2.50 s" in printed
    record = sidecar.read(tmp_path / f"{name}.json")
    assert (record.status, record.film.frames) == ("whole", 40)
    pictures = [f"out_{number:06d}.png" for number in range(40)] if "%" in name else [name]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*pictures, f"{name}.json", f"{name}.vtt"])
    with Image.open(tmp_path / pictures[0]) as picture:
        assert picture.size == (2 * WIDTH, 2 * HEIGHT)
        assert getattr(picture, "n_frames", 1) == 40 // len(pictures)
    with pytest.raises(UsageMistake, match="--overwrite"):
        run(request)
    assert run(replace(request, overwrite=True))[0] == 0


@pytest.mark.parametrize("name", ["out.gif", "out_%06d.png"])
def test_pictures_are_neither_resumed_nor_heard_and_leave_no_half(tmp_path: Path, name: str) -> None:
    request = replace(film_request(tmp_path), output=tmp_path / name)
    with pytest.raises(UsageMistake, match="can be resumed, not"):
        run(replace(request, resume=True))
    with pytest.raises(MemoryError):
        run(request, at(1, raiser(MemoryError())))
    left = {file.name for file in tmp_path.iterdir()}
    assert left <= {f"out_{number:06d}.png" for number in range(9)}
    with pytest.raises(UsageMistake, match="too many for an animated GIF"):
        run(replace(film_request(tmp_path, duration="90s"), output=tmp_path / "long.gif"))


# ------------------------------------------------------------------ what goes wrong on the way


def at(chunk: int, act: Callable[[], object]) -> Opener:
    """Open a stream that does something just before a chunk."""

    def before(index: int) -> None:
        if index == chunk:
            act()

    return Opener(before)


def test_ctrl_c_finishes_the_file_with_what_is_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = run(film_request(tmp_path, duration="20s"), at(2, lambda: signal.raise_signal(signal.SIGINT)))
    assert code == 130
    assert len(decode(tmp_path / "out.mp4")) == 33
    record = sidecar.read(tmp_path / "out.json")
    assert (record.status, record.film.frames, len(record.chunks)) == ("ended early by Ctrl-C", 33, 3)
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once_and_leaves_a_part_that_plays(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    code, printed = run(film_request(tmp_path, duration="20s"), at(2, twice))
    assert code == 130
    assert f"The first 1.3 s play from {tmp_path / 'out.part.mp4'}" in printed
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.part", "out.part.mp4"]
    assert len(decode(tmp_path / "out.part.mp4")) >= 20


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (OSError(28, "No space left on device"), "disk is full"),
        (RuntimeError("shape mismatch"), r"--debug"),
    ],
    ids=["memory", "torch memory", "disk", "bug"],
)
def test_a_failure_under_way_leaves_a_part_that_plays_and_no_film(
    tmp_path: Path, error: BaseException, said: str
) -> None:
    with pytest.raises(RenderFailure, match=said) as caught:
        run(film_request(tmp_path, duration="20s"), at(3, raiser(error)))
    assert "The first 2.1 s play from" in str(caught.value)
    assert explain(caught.value)[1] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.part", "out.part.mp4"]
    assert len(decode(tmp_path / "out.part.mp4")) >= 32


def test_a_disk_that_fills_up_stops_the_film_cleanly(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            RenderFailure, match=r"disk is full.*About \d+\.\d MB more are needed.*The first \d+\.\d s play from"
        ):
            run(film_request(tmp_path, duration="60s", scale=16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.part", "out.part.mp4"]
    assert len(decode(tmp_path / "out.part.mp4")) >= 8


def test_what_the_engine_refuses_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorten it"):
        run(film_request(tmp_path), at(0, raiser(ValueError("The prompt has 99 words; shorten it."))))
    assert not list(tmp_path.iterdir())


def test_a_failed_render_keeps_the_film_it_should_have_replaced(tmp_path: Path) -> None:
    run(film_request(tmp_path, seed=1))
    before = (tmp_path / "out.mp4").read_bytes()
    with pytest.raises(RenderFailure):
        run(film_request(tmp_path, seed=2, overwrite=True), at(2, raiser(MemoryError())))
    assert (tmp_path / "out.mp4").read_bytes() == before
    assert run(film_request(tmp_path, seed=2, overwrite=True))[0] == 0
    assert (tmp_path / "out.mp4").read_bytes() != before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.json", "out.mp4", "out.vtt"]


# ------------------------------------------------------------------ outputs refused before the model loads


@pytest.mark.parametrize("name", ["out.mp4", "out.json", "out.vtt", "out.part.mp4"])
def test_no_existing_file_is_touched_without_overwrite(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageMistake, match="--overwrite"):
        render(film_request(tmp_path), console=Console(file=io.StringIO()), opener=never)  # pyright: ignore[reportArgumentType]
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (".", "is a folder"),
        ("folder.mp4", "is a folder"),
        ("film", "does not end in .mp4"),
        ("film.avi", "does not end in .mp4"),
        ("nowhere/film.mp4", "no folder"),
        ("file.txt/film.mp4", "no folder"),
        ("film\0.mp4", "NUL"),
        ("x" * 300 + ".mp4", "cannot be written .*too long"),
    ],
)
def test_an_impossible_output_is_refused_before_the_model_loads(tmp_path: Path, output: str, said: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").write_text("")
    request = RenderRequest(
        script=script_of(["a ball"]),
        output=tmp_path / output,
        length=parse_length("1s"),
        engine=EngineRequest(PRESETS["embedded"]),
    )
    with pytest.raises(UsageMistake, match=said):
        render(request, console=Console(file=io.StringIO()), opener=never)  # pyright: ignore[reportArgumentType]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file.txt", "folder.mp4"]


def test_checking_the_output_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="before the mistake"):
        render(film_request(tmp_path), console=Console(file=io.StringIO()), opener=never)  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ lengths and the timeline


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("20s", 320),
        ("20", 320),
        ("0:20", 320),
        ("1:02:03", 59_568),
        ("1m30s", 1440),
        ("1m30", 1440),
        ("2.5s", 40),
        ("0.5m", 480),
        ("1h", 57_600),
        ("320f", 320),
        ("1l", 1),
        ("32l", 125),
        ("11c", 129),
        ("11b", 129),
        (" 20S ", 320),
    ],
)
def test_lengths_are_read_in_every_unit(text: str, frames: int) -> None:
    assert parse_length(text).frames(16, Rhythm(3, 3)) == frames


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "s", "0", "0s", "0f", "0:00", "-5s", "-1", "1e3s", "nan", "inf", "20 s", "20sec", "1:75", "1:2:3:4"),
        *("1.5f", "s20", "20s20s", "1.0.0s", "9" * 400, "25h", "99999999f", "1\0s", "0x10", "--", "1_000s", "20,5s"),
    ],
)
def test_garbled_lengths_are_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(UsageMistake, match=r"(Give|Write) .*\d"):
        parse_length(text)


rhythms = st.builds(Rhythm, st.integers(1, 7), st.integers(1, 7))


@given(rhythms, st.integers(0, 5000), st.floats(1, 60))
def test_a_place_is_the_same_moment_in_every_unit(rhythm: Rhythm, frame: int, fps: float) -> None:
    place = Timeline(fps, rhythm, frame + 1).timecode(frame)
    assert frame in pixel_range(place.latent)
    assert rhythm.start(place.chunk) <= place.latent < rhythm.start(place.chunk + 1)
    assert place.second == pytest.approx(frame / fps, abs=1e-6)


def test_times_are_written_as_people_read_them() -> None:
    assert [clock(second) for second in (0, 1.5625, 59.97, 61, 3661.25)] == [
        "00:00.0",
        "00:01.5",
        "00:59.9",
        "01:01.0",
        "1:01:01.2",
    ]
    assert [span(second) for second in (0, 12.4, 59.6, 61, 3725)] == ["0m00s", "0m12s", "1m00s", "1m01s", "1h02m"]
