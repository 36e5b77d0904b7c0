"""A pause of the event loop is counted as all the waits that it was."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.server.loop_pauses import EVERY, KEPT_SECONDS, LoopPauses


def test_one_long_pause_among_many_short_ones_shows_in_the_longest_and_in_the_99_of_100() -> None:
    now, told = 0.0, list[float]()
    pauses = LoopPauses(told.append, lambda: now)
    assert pauses.figures() == {"loop_pause_p99_seconds": 0.0, "loop_pause_max_seconds": 0.0}
    for _ in range(1000):
        now += EVERY
        pauses.came(now - 0.001)
    calm = pauses.figures()
    assert calm == pytest.approx({"loop_pause_p99_seconds": 0.001, "loop_pause_max_seconds": 0.001})
    now += 2.0
    pauses.came(now - 2.0)  # 40 waits of 1041: the hundredth part of them waited for more than a second
    held_up = pauses.figures()
    assert held_up["loop_pause_max_seconds"] == 2.0
    assert 1.4 < held_up["loop_pause_p99_seconds"] < 1.6
    now += KEPT_SECONDS + 1
    pauses.came(now)
    assert pauses.figures()["loop_pause_max_seconds"] == 0.0
    assert (len(told), max(told)) == (1002, 2.0), "whoever counts them is told each pause once"


def test_what_keeps_a_real_loop_busy_is_seen() -> None:
    async def work() -> dict[str, float]:
        pauses = LoopPauses(list[float]().append)
        pauses.watch()
        pauses.watch()
        await asyncio.sleep(2.5 * EVERY)
        time.sleep(0.3)  # that is the pause
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return pauses.figures()

    assert 0.2 < asyncio.run(work())["loop_pause_max_seconds"] < 5
