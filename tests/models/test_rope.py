"""Rotary tables against complex arithmetic, against diffusers' own, and far away from zero."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from hypothesis import given
from hypothesis import strategies as st

from cache.rope import frequencies, rotary_tables, rotate
from tests.reference import rotated, rotations
from tests.tiny import gap

ROWS, COLUMNS = 2, 3


@pytest.mark.parametrize("head_dim", [12, 20, 32, 128])
def test_tables_are_those_of_complex_rotations(head_dim: int) -> None:
    positions = [0, 5, 3, 1023]
    turn = rotations(positions, ROWS, COLUMNS, head_dim).flatten(0, 1)
    cos, sin = rotary_tables(positions, ROWS, COLUMNS, head_dim, dtype=torch.float64)
    assert gap(cos, turn.real) < 1e-12
    assert gap(sin, turn.imag) < 1e-12
    x = torch.randn(2, len(positions), ROWS * COLUMNS, 2, head_dim, dtype=torch.float64)
    ours = rotate(x.flatten(1, 2), cos, sin)
    assert gap(ours, rotated(x, turn.unflatten(0, (len(positions), -1))).flatten(1, 2)) < 1e-11
    assert gap(ours, x.flatten(1, 2)) > 0.1


@pytest.mark.parametrize("head_dim", [12, 32, 128])
def test_tables_equal_those_of_diffusers_bit_for_bit(head_dim: int) -> None:
    stock = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
    cos, sin = stock(torch.zeros(1, 4, 7, 2 * ROWS, 2 * COLUMNS))
    ours = rotary_tables(range(7), ROWS, COLUMNS, head_dim)
    assert torch.equal(ours[0], cos[0, :, 0, 0::2])
    assert torch.equal(ours[1], sin[0, :, 0, 1::2])


def test_row_and_column_take_a_third_each_and_time_the_rest() -> None:
    assert [len(part) for part in frequencies(128)] == [22, 21, 21]
    assert [len(part) for part in frequencies(12)] == [2, 2, 2]
    assert all(part[0] == 1 for part in frequencies(128)), "each axis has its own exponent base"


@given(st.integers(0, 10**6), st.integers(-40, 40))
def test_scores_depend_on_the_distance_in_time_alone(base: int, distance: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, ROWS * COLUMNS, 1, 32, dtype=torch.float64, generator=generator)

    def score(at: int) -> torch.Tensor:
        tables = (rotary_tables([p], ROWS, COLUMNS, 32, dtype=torch.float64) for p in (at, at + distance))
        (q_cos, q_sin), (k_cos, k_sin) = tables
        return rotate(q, q_cos, q_sin).flatten(1) @ rotate(k, k_cos, k_sin).flatten(1).T

    assert gap(score(0), score(base)) < 1e-7  # cos of 1e6 radians keeps about ten digits
    if distance:
        elsewhere = rotary_tables([2 * distance], ROWS, COLUMNS, 32, dtype=torch.float64)
        start = rotary_tables([0], ROWS, COLUMNS, 32, dtype=torch.float64)
        assert gap(rotate(q, *start).flatten(1) @ rotate(k, *elsewhere).flatten(1).T, score(0)) > 1e-4


def test_rows_and_columns_are_told_apart() -> None:
    wide = rotary_tables([0], 2, 3, 32)[0]
    tall = rotary_tables([0], 3, 2, 32)[0]
    assert gap(wide, tall) > 0.1


def test_positions_need_not_be_in_order_nor_have_a_limit() -> None:
    far = 10**9 + 7
    cos, _ = rotary_tables([far, 2], ROWS, COLUMNS, 32, dtype=torch.float64)
    assert gap(cos[ROWS * COLUMNS :], rotary_tables([2], ROWS, COLUMNS, 32, dtype=torch.float64)[0]) == 0
    fastest = torch.tensor(float(far), dtype=torch.float64).cos()
    assert abs(float(cos[0, 0] - fastest)) < 1e-12


def test_half_precision_keys_are_turned_in_float32() -> None:
    x = torch.randn(1, ROWS * COLUMNS, 2, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    cos, sin = rotary_tables([977], ROWS, COLUMNS, 32)
    turned = rotate(x, cos, sin)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), cos, sin).bfloat16())
    assert not torch.equal(turned, rotate(x, cos.bfloat16(), sin.bfloat16()))
