"""A live film's log says what was on screen last, and the film comes out of it again bit for bit."""

from __future__ import annotations

import json
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake
from app.live.messages import Do, Set
from app.live.session import Session
from app.loading.live import LiveOpener
from app.media.join import read_metadata
from app.record.log_writer import LogWriter
from app.record.session_log import read_log
from app.render.replay_log import replay_log
from pipelines.engine import Engine
from pipelines.presets import Preset
from pipelines.streaming import Stream
from tests import live_tiny
from tests.live_tiny import Clock, Stage, TinyModel, Watcher, say
from tests.tiny import tiny_autoencoder, tiny_engine, tiny_stream


class SteppedModel(TinyModel):
    """Makes another film with another number of steps."""

    def _build(self, preset: Preset, seed: int) -> Stream:
        return tiny_stream(_networks(len(preset.schedule.denoising_step_list)), seed=seed)


@cache
def _networks(steps: int) -> Engine:
    levels = tuple(1000.0 - 900.0 * step / steps for step in range(steps))
    return tiny_engine(autoencoder=tiny_autoencoder(), levels=levels)


@pytest.fixture(scope="module")
def jam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Watcher]:
    """A take with every kind of change in it, ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_tiny, "TinyModel", SteppedModel)
        with Stage(tmp_path_factory.mktemp("jam")) as stage:
            session, watcher = stage.open(), Watcher(stage.clock)
            session.attach(watcher)
            stage.play(1)
            session.submit(Do(action="reset", seed=9), watcher)
            stage.play(1)
            session.submit(say("a", "a grey wolf"), watcher)
            stage.play(1.3)
            session.submit(say("b", "a blue bird", "cut"), watcher)
            session.submit(Set(steps=2, guidance_scale=3.0), watcher)
            stage.play(2.5)
            session.submit(Do(action="rewind", seconds=1), watcher)
            stage.play(1)
            session.submit(say("c", [("a blue bird", 1.0), ("a wolf", 0.5)], "soft", 1), watcher)
            session.submit(Set(steps=1), watcher)
            stage.play(2)
            session.submit(say("d", "a red fox runs", "keep"), watcher)
            stage.play(1.5)
            session.end("enough")
    return session, watcher


def again(
    session: Session, output: Path, *, log: Path | None = None, opener: LiveOpener | None = None
) -> tuple[int, str]:
    out = StringIO()
    code = replay_log(
        log or session.folder / "session.jsonl",
        output,
        check=True,
        overwrite=True,
        console=Console(file=out, width=200),
        opener=opener or TinyModel(Clock()),
    )
    return code, out.getvalue()


def test_the_film_comes_out_of_its_log_bit_for_bit(jam: tuple[Session, Watcher], tmp_path: Path) -> None:
    log = read_log(jam[0].folder / "session.jsonl")
    assert {chunk.controls.transition.kind for chunk in log.chunks} == {"recache", "cut", "soft", "keep"}
    assert {chunk.controls.knobs for chunk in log.chunks} >= {(), (("num_inference_steps", 1),)}
    assert {chunk.controls.seed for chunk in log.chunks} == {9}, "the film before the reset is gone"
    code, said = again(jam[0], tmp_path / "take.mp4", opener=SteppedModel(Clock()))
    assert "bit for bit the same" in said
    assert code == EXIT_OK
    told = json.loads(read_metadata(tmp_path / "take.mp4")["rivulet"])
    assert (told["status"], told["seed"]) == ("live", 9)


def test_a_replay_that_forgets_the_steps_is_another_film(jam: tuple[Session, Watcher], tmp_path: Path) -> None:
    code, said = again(jam[0], tmp_path / "take.mp4")
    assert (code, "Not the same film" in said) == (EXIT_FAILURE, True)


def test_the_log_holds_the_frames_that_were_on_screen_last(jam: tuple[Session, Watcher]) -> None:
    session, watcher = jam
    log = read_log(session.folder / "session.jsonl")
    on_screen: list[int] = []
    for frame in watcher.frames:
        while on_screen and on_screen[-1] >= frame.frame:  # a rewind took these back
            on_screen.pop()
        on_screen.append(frame.frame)
    logged = [frame for chunk in log.chunks for frame in range(chunk.first, chunk.first + chunk.shown)]
    assert logged == on_screen
    assert any(later - earlier > 1 for earlier, later in pairwise(logged))  # the cut


def test_another_film_is_told_from_the_same_one_with_its_first_chunk(
    jam: tuple[Session, Watcher], tmp_path: Path
) -> None:
    log = tmp_path / "session.jsonl"
    log.write_bytes((jam[0].folder / "session.jsonl").read_bytes())
    kept = read_log(log)
    log.write_text(log.read_text().replace('"a blue bird"', '"a blue cow"'))
    changed = next(chunk for chunk in kept.chunks if "bird" in str(chunk.controls.prompt))
    code, said = again(jam[0], tmp_path / "take.mp4", log=log, opener=SteppedModel(Clock()))
    assert code == EXIT_FAILURE
    assert f"first chunk that differs is {changed.index} " in said


def test_a_reset_leaves_the_new_film_alone_in_the_log(stage: Stage, tmp_path: Path) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(1.5)
    session.submit(Do(action="reset", seed=9), watcher)
    stage.play(1)
    session.end("enough")
    log = read_log(session.folder / "session.jsonl")
    assert {chunk.controls.seed for chunk in log.chunks} == {9}
    assert again(session, tmp_path / "take.mp4")[0] == EXIT_OK


def test_a_film_that_was_parked_and_taken_up_is_one_film(stage: Stage, tmp_path: Path) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(1.5)
    session.detach(watcher)
    stage.play(5.5)
    with Stage(tmp_path) as later:
        taken_up = later.open(session.id)
        taken_up.attach(Watcher(later.clock))
        later.play(1.5)
        assert taken_up.film.chunk > 2
    assert again(taken_up, tmp_path / "take.mp4")[0] == EXIT_OK


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("{}\n", "line 1"),
        ('{"event":"branch","branch":1,"parent":0,"chunk":0}\n', "no log of a live film"),
        ("no json\n", "line 1"),
    ],
)
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    log = tmp_path / "session.jsonl"
    log.write_text(text)
    with pytest.raises(UsageMistake, match=says):
        read_log(log)


def test_an_existing_film_is_not_replaced_unasked(tmp_path: Path) -> None:
    film = tmp_path / "take.mp4"
    film.write_bytes(b"mine")
    with pytest.raises(UsageMistake, match="--overwrite"):
        replay_log(tmp_path / "session.jsonl", film, check=False, overwrite=False, console=Console(file=StringIO()))
    assert film.read_bytes() == b"mine"


def test_a_damaged_line_of_a_log_does_not_keep_a_session_from_going_on(tmp_path: Path) -> None:
    log, model = tmp_path / "session.jsonl", TinyModel(Clock())()
    for branch in (1, 2):
        writer = LogWriter(log, model)
        assert writer.newest_branch == branch - 1
        writer.branch(branch, branch - 1, 0)
    log.write_bytes(log.read_bytes() + b'{"event":"branch","bra\n{"event":"ch')
    writer = LogWriter(log, model)
    assert writer.newest_branch == 3
    assert log.read_bytes().endswith(b'"bra\n'), "the line that a kill has cut is gone"
