"""The load benchmark counts what a viewer would: late chunks, dry players, who waited, who overtook whom."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from app.cli.main import main
from app.live.frame_header import FrameHeader
from benchmarks.live.playback import Playback, play, spread
from benchmarks.live.serve import checks_of, summary, table
from benchmarks.live.serve_page import page
from benchmarks.live.visits import Visit, overtaken

FPS, CHUNK = 16.0, 12


def arrivals(frames: int, late: dict[int, float] | None = None, first: int = 0) -> list[tuple[float, FrameHeader]]:
    """Frames that come when they are shown; from each frame in `late` on, so many seconds later."""
    behind, arrived = 0.0, list[tuple[float, FrameHeader]]()
    for frame in range(first, first + frames):
        behind += (late or {}).get(frame, 0.0)
        arrived.append((1000 + (frame - first) / FPS + behind, FrameHeader(frame, frame, frame / FPS, 0.0)))
    return arrived


def test_a_film_in_time_keeps_every_deadline_and_plays_in_real_time() -> None:
    film = play(arrivals(9 + 12 * 20), CHUNK)
    assert (film.deadlines, film.kept, film.underruns, film.stalled) == (20, 20, 0, 0.0)
    assert film.real_time == pytest.approx(1.0)
    assert [gap for _, gap in film.gaps] == pytest.approx([9 / FPS, *[0.75] * 19])


def test_a_pause_is_one_late_chunk_and_one_underrun_however_long_the_film_goes_on() -> None:
    film = play(arrivals(9 + 12 * 20, {21: 1.0}), CHUNK)
    assert (film.deadlines, film.kept, film.underruns) == (20, 19, 1)
    assert film.stalled == pytest.approx(1.0)  # one second late, of which it had a quarter in hand and takes one anew
    assert film.real_time is not None
    assert film.real_time < 0.95
    assert max(gap for _, gap in film.gaps) == pytest.approx(1.75)


def test_a_delay_that_the_player_has_in_hand_is_late_and_no_underrun() -> None:
    film = play(arrivals(60, {21: 0.1}), CHUNK)
    assert (film.deadlines - film.kept, film.underruns) == (1, 0)
    assert play(arrivals(60, {21: 0.05}), CHUNK).kept == play(arrivals(60, {21: 0.05}), CHUNK).deadlines


def test_a_film_that_is_made_too_slowly_is_late_again_and_again() -> None:
    slow = play(arrivals(9 + 12 * 10, {9 + 12 * number: 0.2 for number in range(10)}), CHUNK)
    assert slow.kept == 0
    assert slow.underruns >= 5


def test_a_new_epoch_begins_again_and_who_comes_in_the_middle_counts_no_part_of_a_chunk() -> None:
    before, after = arrivals(33), arrivals(33)
    anew = [(at + 30, FrameHeader(h.seq + 33, h.frame, h.t, 0.0, epoch=1)) for at, h in after]
    both = play([*before, *anew], CHUNK)
    assert (both.deadlines, both.kept, both.underruns) == (4, 4, 0)
    middle = play(arrivals(40, first=14), CHUNK)
    assert [gap for _, gap in middle.gaps] == pytest.approx([0.75] * 2)
    assert play([], CHUNK) == Playback(0, (), 0, 0, 0, 0.0, 0.0, 0.0)


def test_a_spread_is_of_values_that_were_measured() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "max": 3.0}
    assert spread([]) == {"p50": None, "p95": None, "max": None}


def visit(number: int, asked: float, admitted: float | None, **more: Any) -> Visit:
    """One that was let in at `admitted`, where it was."""
    outcome = more.pop("outcome", "waiting" if admitted is None else "playing")
    film = None if admitted is None else more.pop("film", play(arrivals(129), CHUNK))
    return Visit(number, asked, admitted, admitted and admitted + 0.3, 60.0, outcome=outcome, film=film, **more)


def test_who_waited_and_saw_others_pass_is_counted() -> None:
    fair = [visit(0, 0.0, 5.0, places=[1]), visit(1, 2.0, 8.0, places=[2, 1]), visit(2, 4.0, None, places=[2])]
    assert overtaken(fair) == 0
    starved = [*fair[:2], visit(2, 4.0, None, places=[1]), visit(3, 9.0, 12.0, places=[2])]
    assert overtaken(starved) == 1
    assert overtaken([visit(0, 0.0, 6.0, places=[1]), visit(1, 0.5, 5.0, places=[2])]) == 0  # asked at the same time


def test_each_thing_that_goes_wrong_fails_its_own_check() -> None:
    good = [visit(0, 0.0, 1.0), visit(1, 0.0, 9.0, places=[1]), visit(2, 0.0, None, outcome="refused", said="Full.")]
    assert all(dict(checks_of(good)).values())
    late = play(arrivals(129, {33: 1.0, 57: 1.0}), CHUNK)
    wrong = (
        visit(3, 0.0, None, outcome="refused"),  # without a sentence
        visit(3, 0.0, 1.0, film=late),  # two chunks of ten
        visit(3, 0.0, 1.0, outcome="lost", said="gone", places=[1]),
        visit(3, 20.0, 2.0, places=[2]),
    )
    failed = [[name for name, passed in checks_of([*good, each]) if not passed] for each in wrong]
    assert [len(names) for names in failed] == [1] * len(wrong)
    assert len({names[0] for names in failed}) == len(wrong)


def test_table_and_page_show_what_was_measured_and_escape_what_was_said() -> None:
    visits = [visit(0, 0.0, 1.0, watchers=[play(arrivals(129, {33: 1.0}), CHUNK)])]
    visits.append(visit(1, 0.0, None, outcome="refused", said="<Full> & gone."))
    curve = [{"at": float(n), "playing": 1, "waiting": 0, "memory": 2**20 * n, "processor": 0.5 * n} for n in (1, 2)]
    found = summary(visits, curve, 1000.0)
    assert found["sessions"]["viewers"] == 2
    assert found["sessions"]["underruns"] == 1
    assert found["sessions"]["deadlines_kept"] == 1.0  # of what drivers see
    server = dict.fromkeys(("ready_s", "processor_s", "viewers_processor_s", "lasted_s", "loop_pause_p99_seconds"), 1.0)
    asked = {"sessions_asked": 2, "viewers": 2, "minutes": 1.0, "arrive": 0.0, "stay": 0.0, "preset": "embedded"}
    result = {**asked, **found, "server": server, "checks": {"kept": False}, "passed": False}
    result["killed"] = {"at": 60.0, "longest_gap_s": 2.5}
    shown = Console(file=io.StringIO(), width=200)
    shown.print(table(result))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "100.00% of 10" in text
    assert "NO" in text
    assert "an engine killed at 60 s" in text
    html = page(result)
    assert "&lt;Full&gt; &amp; gone." in html
    assert "<Full>" not in html
    assert html.count("<svg") == 4
    assert "default-src 'none'" in html


def test_what_cannot_be_measured_is_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--page", "/no/such/folder/p.html"]) == 2
    assert "There is no folder /no/such/folder" in capsys.readouterr().err
    assert main(["bench", "serve", "--kill", "5"]) == 2
    assert "Give --cluster auto" in capsys.readouterr().err
