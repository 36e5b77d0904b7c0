"""Turns: a film that jumps all the time takes nothing from those that play, and waits for nothing where none does."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from app.live.messages import Do, SessionStart
from app.live.pacing import Pace
from app.live.scheduling import FACTOR, LONGEST_DEBT, PATIENCE, Debt, next_film
from app.live.session import Session
from tests.live_tiny import CHUNK_SECONDS, FPS, Stage, Watcher, say, watched


@dataclass
class Film:
    """One that is due at `at` and can spare `free` seconds; its chunks take 0.4 s."""

    at: float | None
    free: float = float("inf")
    debt: Debt = field(default_factory=lambda: Debt(100.0))
    pace: Pace = field(default_factory=lambda: Pace(0.75))

    def __post_init__(self) -> None:
        self.pace.took(0.4, 0.0, 0.0, 100.0)

    def due(self, now: float) -> float | None:
        return None if self.at is None else max(self.at, 0.0)

    def spare(self, now: float) -> float:
        return self.free


def jumper(at: float, until: float) -> Film:
    film = Film(at)
    film.debt.until = until
    return film


def test_a_film_in_debt_has_the_time_that_the_others_do_not_need() -> None:
    late = jumper(at=100.0, until=103.0)
    assert next_film([late, quiet := Film(100.3, free=0.3)], 100.0) == (100.3, quiet)
    assert next_film([late, Film(100.5, free=0.5)], 100.0) == (100.0, late)
    assert next_film([late, Film(None, free=0.3)], 100.0) == (103.0, late)  # one that has a chunk in stock
    assert next_film([late, Film(100.3, free=0.3)], 103.0) == (100.0, late)  # it is paid


def test_where_only_films_in_debt_play_nobody_waits_and_who_owes_least_is_first() -> None:
    more, less = jumper(100.0, 104.0), jumper(100.0, 102.0)
    assert next_film([more], 100.0) == (100.0, more)
    assert next_film([more, less, Film(None)], 100.0) == (100.0, less)
    assert next_film([Film(None)], 100.0) is None


def test_debt_grows_with_what_jumps_take_and_has_an_end() -> None:
    debt = Debt(100.0)
    debt.had(100.0, 100.4, jumped=False)
    assert debt.until < 100.4
    debt.had(101.0, 101.5, jumped=True)
    assert debt.until == 101.5 + FACTOR * 0.5
    for _ in range(20):
        debt.had(102.0, 103.0, jumped=True)
    assert debt.until == 103.0 + LONGEST_DEBT


def test_a_new_prompt_is_paid_back_and_playing_is_not() -> None:
    debt = Debt(100.0)
    debt.had(100.0, 100.5, jumped=False, switching=0.2)
    assert debt.until == 100.5 + FACTOR * 0.2
    debt.had(101.5, 101.9, jumped=False)
    assert debt.until == 100.5 + FACTOR * 0.2


def test_a_film_that_is_due_has_a_turn_in_the_end_among_films_that_are_always_late() -> None:
    waiting, late = Film(100.0 + PATIENCE), Film(0.0, free=-1.0)
    late.debt.had(100.0, 105.0, jumped=False)
    assert next_film([waiting, late], 109.9) == (0.0, late)
    assert next_film([late, waiting], 100.0 + PATIENCE) == (0.0, late)
    waiting.at = 100.0
    late.at = 100.5
    assert next_film([late, waiting], 100.0 + PATIENCE) == (100.0, waiting)


@pytest.mark.parametrize("jump", ["rewind", "reset", "start", "cut"])
def test_a_film_keeps_its_deadlines_beside_one_that_jumps_all_the_time(stage: Stage, jump: str) -> None:
    quiet, _ = watched(stage)
    jumping, film = watched(stage, sparse=True)
    stage.play(12)
    before, since, made = len(quiet.frames), stage.clock.now, stage.model.made
    for number in range(300):
        film.submit(
            {
                "rewind": Do(action="rewind", seconds=2.0 + number % 7),
                "reset": Do(action="reset", seed=number),
                "start": SessionStart(prompt=f"a grey wolf {number}"),
                "cut": say(f"p{number}", f"a grey wolf {number}", "cut"),
            }[jump],
            jumping,
        )
        stage.play(0.05)
    passed = stage.clock.now - since
    assert len(quiet.frames) - before > 0.97 * passed * FPS
    assert len(film._commands) <= 3
    if jump != "rewind":  # which makes chunks again; the others make both films' as often as a film needs one
        assert stage.model.made - made < 1.2 * 2 * passed / 0.75
    gaps = [after - before for before, after in pairwise(quiet.times) if after > since]
    assert max(gaps) < 1.5 * CHUNK_SECONDS
    shown = [time for time in jumping.times if time > since]
    assert max(after - before for before, after in pairwise([since, *shown, stage.clock.now])) < PATIENCE


def test_a_film_that_jumps_beside_one_that_can_spare_nothing_has_its_turn_all_the_same(stage: Stage) -> None:
    stage.model.chunk_seconds = 0.6  # of 0.75
    watched(stage)
    jumping, film = watched(stage, sparse=True)
    stage.play(20)
    since = stage.clock.now
    for _ in range(300):
        film.submit(Do(action="rewind", seconds=3.0), jumping)
        stage.play(0.1)
    epochs = [time for time, frame in zip(jumping.times, jumping.frames, strict=True) if time > since and frame.epoch]
    assert max(after - before for before, after in pairwise([since, *epochs, stage.clock.now])) < 2 * PATIENCE


def test_the_rewind_of_a_film_that_plays_alone_waits_for_nothing(stage: Stage) -> None:
    watcher, film = watched(stage, sparse=True)
    stage.play(9)
    for seconds in (2.0, 2.5, 3.0, 4.0):  # one after another: what it owes is of no account
        epoch, made, since = film.epoch, stage.model.made, stage.clock.now
        film.submit(Do(action="rewind", seconds=seconds), watcher)
        while film.epoch == epoch:
            stage.play(0.005)
        again = stage.model.made - made
        assert 1 <= again <= 5
        assert stage.clock.now - since <= again * CHUNK_SECONDS + 0.05
        stage.play(3)
    assert film.debt.until > 0


def rewound_half_way(stage: Stage) -> tuple[Watcher, Session, dict[int, bytes]]:
    watcher, film = watched(stage, sparse=True)
    stage.play(8)
    before = {frame.frame: frame.payload for frame in watcher.frames}
    for seconds in (2.0, 2.75, 3.5, 4.25):
        film.submit(Do(action="rewind", seconds=seconds), watcher)
        while film._commands:
            stage.clock.sleep(0.005)
            stage.engine.step()
        if film.film.behind:
            return watcher, film, before
        stage.play(2)
    raise AssertionError("a copy was there every time")


def test_a_film_that_is_parked_half_way_through_a_rewind_goes_on_where_it_leads(stage: Stage) -> None:
    _, film, before = rewound_half_way(stage)
    chunk = film.film.chunk
    film.park()
    stage.engine._remove(film)
    stage.settle()
    again, seen = stage.open(film.id), Watcher(stage.clock)
    assert again.film.chunk == chunk
    again.attach(seen)
    stage.play(2)
    same = [frame for frame in seen.frames if frame.frame in before]
    assert len(same) > 12
    assert all(before[frame.frame] == frame.payload for frame in same)


@pytest.mark.parametrize("then", ["pause", "reset", "preview"])
def test_what_is_asked_half_way_through_a_rewind_does_not_mix_two_moments(stage: Stage, then: str) -> None:
    watcher, film, before = rewound_half_way(stage)
    if then == "preview":
        film.film.preview("a blue bird")
        assert not film.film.behind
    else:
        film.submit(Do(action="pause" if then == "pause" else "reset"), watcher)
        stage.play(2)
        film.submit(Do(action="resume"), watcher)
    had = len(watcher.frames)
    stage.play(3)
    shown = (
        watcher.frames[had:] if then != "reset" else [frame for frame in watcher.frames if frame.epoch == film.epoch]
    )
    same = [frame for frame in shown if frame.frame in before]
    assert len(same) > 12
    assert all(before[frame.frame] == frame.payload for frame in same)
