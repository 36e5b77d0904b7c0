"""The drift number: still films stay at zero, wandering ones do not, and a switch begins the comparison anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.drift import EVERY, NAMES, DriftState, measure, statistics

FPS, CHUNK = 16, 12
PER_SECOND = FPS // EVERY
Pixels = NDArray[np.uint8]
SPREADS = (0.05, 0.05, 0.05, 0.005, 0.1)


def picture(brightness: float = 0.4, noise: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """A gradient with a square in it, 40 x 56, 0..1."""
    y, x = np.mgrid[0:40, 0:56]
    out = np.stack([x / 80, y / 60, 0.3 + 0 * x], axis=-1) * brightness / 0.4
    out[10:20, 15:30] = (0.8, 0.5, 0.1)
    return out + noise * np.random.default_rng(seed).standard_normal(out.shape)


def to_pixels(frames: list[NDArray[np.float64]]) -> Pixels:
    return (np.clip(np.stack(frames), 0, 1) * 255).round().astype(np.uint8)


def run(
    frame: Callable[[int], NDArray[np.float64]],
    chunks: int,
    *,
    switches: tuple[int, ...] = (),
    spreads: tuple[float, ...] | None = SPREADS,
) -> list[float | None]:
    """The drift of each chunk of the film whose frame number n is `frame(n)`."""
    state, out = DriftState(), []
    for chunk in range(chunks):
        pixels = to_pixels([frame(n) for n in range(CHUNK * chunk, CHUNK * (chunk + 1))])
        state, drift = measure(state, pixels, fps=FPS, switched=chunk in switches, spreads=spreads)
        out.append(drift)
    return out


def wobble(n: int) -> NDArray[np.float64]:
    """A film that lives without going anywhere: a bright spot circles once a second."""
    out = picture(0.4 + 0.02 * np.sin(2 * np.pi * n / FPS))
    turn = 2 * np.pi * n / FPS
    row, column = int(28 + 6 * np.sin(turn)), int(40 + 6 * np.cos(turn))
    out[row : row + 4, column : column + 4] = 0.9
    return out


def test_a_still_film_has_no_drift() -> None:
    drifts = run(lambda n: picture(), 12)
    assert max(d for d in drifts if d is not None) < 1e-3
    own = run(lambda n: picture(), 20, spreads=None)
    assert own[-1] is not None
    assert own[-1] < 0.2  # no spread at all: rounding against the smallest spread allowed


def test_a_film_that_lives_has_little_and_one_that_brightens_has_more_and_more() -> None:
    calm = run(wobble, 24, spreads=None)
    bright = run(lambda n: wobble(n) * (1 + 0.004 * max(0, n - 160)), 24, spreads=None)
    assert calm[-1] is not None
    assert calm[-1] < 1.0
    late = [d for d in bright[16:] if d is not None]
    assert len(late) == 8
    assert all(b > a for a, b in pairwise(late))
    assert late[-1] > 5 * calm[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f * 1.3,
        lambda f: 0.5 + (f - 0.5) * 1.5,
        lambda f: f.mean(-1, keepdims=True) + 0.2 * (f - f.mean(-1, keepdims=True)),
        lambda f: (f + np.roll(f, 2, 0) + np.roll(f, 2, 1) + np.roll(f, -2, 1)) / 4,
        lambda f: f[:, ::-1],
    ],
    ids=NAMES,
)
def test_each_statistic_notices_its_own_kind_of_drift(change: Callable[..., NDArray[np.float64]]) -> None:
    before, after = (run(lambda n, f=f: f(picture()) if n > 100 else picture(), 14) for f in (lambda f: f, change))
    assert before[-1] is not None
    assert after[-1] is not None
    assert after[-1] > before[-1] + 0.2


def test_there_is_no_number_before_there_is_something_to_compare() -> None:
    known = run(lambda n: picture(), 8)
    # reference: seconds 2 to 4; a chunk is 0.75 s
    assert [d is None for d in known] == [True] * 5 + [False] * 3
    own = run(lambda n: picture(), 16, spreads=None)
    assert [d is None for d in own] == [True] * 13 + [False] * 3, "its own spread takes 10 s"


def test_a_switch_starts_the_comparison_anew() -> None:
    film: Callable[[int], NDArray[np.float64]] = lambda n: picture(0.4 if n < 8 * CHUNK else 0.7)  # noqa: E731
    without = run(film, 16)
    with_switch = run(film, 16, switches=(8,))
    assert without[:8] == with_switch[:8]
    assert [d is None for d in with_switch[8:]] == [True] * 5 + [False] * 3
    assert without[-1] is not None
    assert with_switch[-1] is not None
    assert with_switch[-1] < 1e-3 < 0.5 < without[-1]


def test_given_spreads_scale_the_number() -> None:
    brighter: Callable[[int], NDArray[np.float64]] = lambda n: picture(0.4 + 0.002 * n)  # noqa: E731
    narrow = run(brighter, 10)
    wide = run(brighter, 10, spreads=tuple(2 * spread for spread in SPREADS))
    assert narrow[-1] is not None
    assert wide[-1] == pytest.approx(narrow[-1] / 2, rel=1e-6)


def test_the_state_is_bounded_and_old_states_stay_as_they_were() -> None:
    state = DriftState()
    pixels = to_pixels([picture(noise=0.01, seed=n) for n in range(CHUNK)])
    sizes: list[tuple[int, int, int]] = []
    old = state
    for chunk in range(40):
        if chunk == 3:
            old = state
        state, _ = measure(state, pixels, fps=FPS, switched=False)
        sizes.append((len(state.recent), len(state.reference), len(state.early)))
    assert sizes[-1] == sizes[20] == (2 * PER_SECOND, 2 * PER_SECOND, 10 * PER_SECOND)
    assert (old.since, len(old.recent), len(old.reference)) == (9, 8, 1)


def test_statistics_of_a_frame_are_what_their_names_say() -> None:
    grey = statistics(np.full((1, 20, 30, 3), 51, dtype=np.uint8))[0]
    assert grey[0] == pytest.approx(0.2, abs=1e-6)
    assert np.abs(grey[1:]).max() < 1e-6
    red = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    red[:, :, :8, 0] = 255
    first = statistics(red)[1]
    assert first[0] == pytest.approx(0.2126 / 2, abs=1e-6)
    assert first[1] == pytest.approx(0.2126 / 2, abs=1e-6)
    assert first[2] == pytest.approx(0.5, abs=1e-6)
    assert first[3] > 0
    thumbnail = first[4:].reshape(16, 16, 3)
    assert np.allclose(thumbnail[:, :8, 0], 0.5)
    assert np.allclose(thumbnail[:, 8:, 0], -0.5)
    assert np.allclose(thumbnail[..., 1:], 0)
