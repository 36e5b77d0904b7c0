"""The deadline controller against machines that are made up: no clock, no tensor."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from pipelines.deadline import GOOD_IN_A_ROW, MOST_GOOD, Choice, DeadlineController, Rung, ladder

SIZES = ((480, 832), (320, 576), (240, 416))
RUNGS = ladder(4, SIZES, 16.0)
Machine = Callable[[int], float]
"""Seconds for so many tokens."""


def machine(fixed: float, each: float) -> Machine:
    return lambda tokens: fixed + each * tokens


def controller(latency: float = 0.5, **settings: int) -> DeadlineController:
    return DeadlineController(RUNGS, latency, **{"chunk": 4, **settings})


def play(control: DeadlineController, runs: Machine, chunks: int) -> list[Choice]:
    return [control.decide(runs(control.tokens(control.rung))) for _ in range(chunks)]


def test_steps_go_first_then_the_size_then_the_rate() -> None:
    assert RUNGS[:4] == tuple(Rung(steps, SIZES[0], 16.0) for steps in (4, 3, 2, 1))
    assert RUNGS[4:6] == (Rung(1, SIZES[1], 16.0), Rung(1, SIZES[2], 16.0))
    assert RUNGS[6:] == (Rung(1, SIZES[2], 8.0), Rung(1, SIZES[2], 4.0))
    cost = [rung.steps * rung.size[0] * rung.size[1] * rung.rate for rung in RUNGS]
    assert all(high > low for high, low in pairwise(cost))


@pytest.mark.parametrize("seconds_at_best", [0.1, 0.2, 0.3, 0.45, 0.8, 1.6, 4.0])
def test_it_settles_on_the_best_quality_that_this_machine_can_make(seconds_at_best: float) -> None:
    control = controller()
    runs = machine(0.01, (seconds_at_best - 0.01) / control.tokens(RUNGS[0]))
    last = play(control, runs, 60)[-1]

    def fits(rung: Rung) -> bool:
        work = runs(control.tokens(rung))
        return work <= 0.9 * 4 / rung.rate and 3 / rung.rate + work <= 0.5

    wanted = next((rung for rung in RUNGS if fits(rung)), None)
    if wanted is None:
        assert not last.reached
    else:
        # room is asked for before something comes back, so at most one rung below what would just do
        assert last.reached
        assert 0 <= RUNGS.index(last.rung) - RUNGS.index(wanted) <= 1
        assert last.expected <= 0.5


def test_a_machine_that_is_fast_enough_trades_nothing_away() -> None:
    choices = play(controller(), machine(0.02, 1e-6), 50)
    assert {choice.rung for choice in choices} == {RUNGS[0]}
    assert not any(choice.levers for choice in choices)
    assert choices[-1].said == "everything: a picture is 0.21 s old, 0.50 s are allowed"


def test_one_slow_chunk_changes_nothing_and_two_do() -> None:
    control = controller()
    fast, slow = machine(0.02, 1e-6), machine(0.4, 1e-5)
    play(control, fast, 10)
    assert not play(control, slow, 1)[0].levers
    assert not any(choice.levers for choice in play(control, fast, 3))
    assert not play(control, slow, 1)[0].levers
    (second,) = play(control, slow, 1)
    assert second.levers


def test_what_went_comes_back_one_by_one_after_good_chunks() -> None:
    control = controller()
    slow, fast = machine(0.0, 0.5 / control.tokens(RUNGS[0])), machine(0.0, 0.05 / control.tokens(RUNGS[0]))
    play(control, slow, 20)
    low = RUNGS.index(control.rung)
    assert low >= 2
    at = [low, *(RUNGS.index(choice.rung) for choice in play(control, fast, 40))]
    assert at[-1] == 0
    rises = [number for number, (before, after) in enumerate(pairwise(at)) if after != before]
    assert all(after - before in (0, -1) for before, after in pairwise(at))
    assert all(later - sooner >= GOOD_IN_A_ROW for sooner, later in pairwise(rises))


def test_what_does_not_last_is_tried_less_and_less_often() -> None:
    """A machine that is slow only at the best quality, which the line cannot know."""
    control = controller()
    best = control.tokens(RUNGS[0])
    tried: list[int] = []
    before = RUNGS[0]
    for number in range(600):
        tokens = control.tokens(control.rung)
        choice = control.decide(0.4 if tokens == best else 0.01)
        if choice.rung == RUNGS[0] != before:
            tried.append(number)
        before = choice.rung
    waits = [later - sooner for sooner, later in pairwise(tried)]
    assert 5 <= len(tried) < 40
    assert waits[-1] > 3 * waits[0]
    assert max(waits) <= MOST_GOOD + 20


def test_the_cost_of_a_chunk_is_a_line_through_what_was_seen() -> None:
    control = controller()
    assert control.line == (0.0, 0.0)
    control.decide(0.2)
    fixed, each = control.line
    assert (fixed, each * control.tokens(RUNGS[0])) == pytest.approx((0.0, 0.2)), "one size says nothing of a"
    control = controller(latency=0.3)
    play(control, machine(0.05, 0.3 / control.tokens(RUNGS[0])), 12)
    assert control.line == pytest.approx((0.05, 0.3 / control.tokens(RUNGS[0])))


def test_a_latency_that_cannot_be_is_said_with_its_floor() -> None:
    control = DeadlineController(RUNGS, 0.4, chunk=12)
    choice = play(control, machine(0.02, 1e-6), 10)[-1]
    assert not choice.reached
    assert choice.said == (
        "0.40 s cannot be held on this machine: with 1 of 4 steps at 416x240 a picture is 0.71 s old, of which its "
        "chunk takes 0.69 s to arrive"
    )
    lanes = DeadlineController(RUNGS, 1.0, chunk=4, lanes=4)
    assert lanes.age(RUNGS[0], 0.0) == pytest.approx((3 + 3 * 4) / 16)


def test_its_decisions_are_the_same_for_the_same_measurements_and_fit_a_log() -> None:
    made = random.Random(3)
    seconds = [made.uniform(0.02, 0.6) for _ in range(300)]
    first, second = controller(), controller()
    choices = [first.decide(each) for each in seconds]
    assert choices == [second.decide(each) for each in seconds]
    assert len({choice.rung for choice in choices}) > 1
    data = choices[-1].as_data()
    assert {type(value) for value in data.values()} <= {int, float, str, bool}
    assert data["said"] == choices[-1].said


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"latency": 0.0}, {"latency": float("nan")}, {"chunk": 0}, {"lanes": 0}):
        with pytest.raises(ValueError, match="cannot be held"):
            controller(**{"latency": 0.5, **wrong})  # type: ignore[arg-type]  # numbers of either kind
    with pytest.raises(ValueError, match="takes a time"):
        controller().decide(float("nan"))
    for steps, sizes, rate in ((0, SIZES, 16.0), (4, (), 16.0), (4, SIZES, 0.0)):
        with pytest.raises(ValueError, match="no quality"):
            ladder(steps, sizes, rate)
