"""The ablation of the training: each run lacks what it says, and each question asks what it says."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_recipe import SMALL_AE, fake_data, noise_shelves
from training import ablation, data, dit, windows
from training.captions import vocabulary
from training.mix import USUAL, Mix
from training.run import step_seed


@pytest.fixture(scope="module")
def shelves() -> data.Shelves:
    rng = np.random.default_rng(1)
    films = [data.draw_film(rng, switching=bool(number % 2)) for number in range(12)]
    return noise_shelves(films, groups=4)


def test_every_question_asks_in_one_way_and_the_same_each_time(shelves: data.Shelves) -> None:
    for asked in ablation.ASKED:
        batches, again = (ablation.questions(shelves, asked, 6) for _ in range(2))
        for batch, same in zip(batches, again, strict=True):
            assert torch.equal(batch.latents, same.latents)
            assert batch.prompts == same.prompts
            frames = batch.latents.shape[1]
            assert (frames == 1) == (asked in ("pictures", "another picture under the noise", "words of pictures"))
            assert (frames == 3 and not batch.joint) == (asked == "beginnings")
            assert (frames == data.TURN and not batch.joint) == (asked in ("turns", "words behind a switch"))
            assert bool(batch.joint) == (asked == "denoised together")
            assert bool(batch.own) == (asked == "history of its own")
            assert (batch.chunk == 1 < frames) == (asked == "chunks of one")
            assert (set(batch.prompts) == {""}) == (asked == "no prompt")
            swapped = batch.under is not None and not torch.equal(batch.under, batch.latents)
            assert swapped == (asked in ("another picture under the noise", *ablation.WORDS))
            serial = asked in (
                "chunks of three",
                "chunks of one",
                "history of its own",
                "no prompt",
                "films with a switch",
            )
            assert batch.forced == serial
    turned = {film for film, row in enumerate(shelves[0].films) if row.switch is not None}
    owner = {
        tuple(frame.flatten().tolist()): film for film, latents in enumerate(shelves[0].latents) for frame in latents
    }
    for asked, switched in (("films with a switch", True), ("chunks of three", False)):
        windows_drawn = [window for batch in ablation.questions(shelves, asked, 6) for window in batch.latents]
        found = {owner[tuple(window[0].flatten().tolist())] for window in windows_drawn}
        assert found <= turned if switched else not found & turned


def test_a_run_lacks_what_it_says(shelves: data.Shelves) -> None:
    def kinds(mix: Mix) -> set[str]:
        seen = set()
        for step in range(150):
            batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, step / 150, mix=mix)
            frames = batch.latents.shape[1]
            seen |= {"no prompt"} if "" in batch.prompts else set()
            seen |= {"own"} if batch.own else set()
            seen |= {"joint"} if batch.joint else set()
            turn = frames == data.TURN and not batch.joint and batch.instead is not None
            seen |= {"turns"} if turn else set()
            seen |= {"noisy"} if not batch.forced and not batch.joint and frames > 3 and not turn else set()
            seen |= {"single"} if frames > 1 and batch.chunk == 1 else set()
            seen |= {"pictures"} if frames <= 3 and not batch.joint else set()
            seen |= {"shaken"} if not batch.own and batch.history_noise.any() else set()
            seen |= {"other"} if batch.under is not None and not torch.equal(batch.under, batch.latents) else set()
            seen |= {"focus"} if not torch.equal(batch.focus, torch.ones_like(batch.focus)) else set()
        return seen

    whole = kinds(USUAL)
    for left_out, lacking in (
        ("pictures and beginnings", {"pictures"}),
        ("turns", {"turns"}),
        ("another picture under the noise", {"other"}),
        ("windows denoised together", {"joint"}),
        ("noisy history", {"noisy"}),
        ("chunks of one frame", {"single"}),
        ("dropped prompts", {"no prompt"}),
        ("shaken history", {"shaken"}),
        ("history of its own", {"own"}),
        ("focus on the object", {"focus"}),
    ):
        assert whole - kinds(replace(USUAL, **ablation.LEFT_OUT[left_out])) == lacking, left_out


def test_every_pair_of_ingredients_meets_in_every_way_equally_often() -> None:
    without = np.zeros((ablation.RUNS, ablation.COLUMNS), dtype=int)
    for run in range(ablation.RUNS):
        without[run, ablation.lacking(run)] = 1
    for one, two in itertools.combinations(without.T, 2):
        assert Counter(zip(one.tolist(), two.tolist(), strict=True)) == dict.fromkeys(
            itertools.product((0, 1), repeat=2), ablation.RUNS // 4
        )
    assert ablation.mix_of(ablation.RUNS - 1) == USUAL
    for run, row in enumerate(without):
        made = ablation.mix_of(run)
        for name, lacks in zip(ablation.LEFT_OUT, row, strict=False):
            if name != "pictures and beginnings":
                assert all((getattr(made, key) == off) == lacks for key, off in ablation.LEFT_OUT[name].items())


def test_what_an_ingredient_is_worth_is_told_from_what_the_others_are_and_from_chance() -> None:
    rng = np.random.default_rng(0)
    worth = {name: 0.02 * number for number, name in enumerate(ablation.LEFT_OUT)}
    names = list(ablation.LEFT_OUT)
    errors = {}
    for run in range(ablation.RUNS):
        lost = sum(worth[names[column]] for column in ablation.lacking(run) if column < len(names))
        errors[str(run)] = {asked: 0.3 * np.exp(lost + rng.normal(0, 0.003)) for asked in ablation.ASKED}
    for asked in ablation.ASKED:
        found, chance = ablation.effects(errors, asked)
        assert chance < 0.004
        for name, value in found.items():
            assert value == pytest.approx(worth[name], abs=0.011)
    shown = ablation.table({"errors": errors, "steps": 1})
    cells = [list(column.cells) for column in shown.columns]
    assert cells[0][1:-1] == names
    assert sum("bold" in column[1] for column in cells[1:]) < 4  # one in twenty is, by chance
    assert all("bold" in column[row] for column in cells[1:] for row in range(3, len(names) + 1))


def test_only_what_counts_is_in_the_error(shelves: data.Shelves) -> None:
    class Stub:
        text_encoder = type("Text", (), {"tokenize": staticmethod(lambda prompts: torch.zeros(len(prompts), 1))})

        def loss(self, batch: windows.Batch, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(()), torch.where(batch.weight > 0, 2.0, 100.0)

    batches = ablation.questions(shelves, "chunks of three", 3)
    assert ablation.error(Stub(), "chunks of three", batches) == pytest.approx(2.0)  # type: ignore[arg-type]


def test_words_are_judged_by_the_way_that_is_left(shelves: data.Shelves, small: None) -> None:
    class Halfway(dit.Denoiser):
        def flow(self, batch: windows.Batch, noisy: Tensor, sigma: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
            assert batch.instead is not None
            return (noisy - (batch.latents + batch.instead) / 2) / sigma[..., None, None, None].clamp_min(1e-3)

    for asked in ablation.WORDS:
        model = Halfway(vocabulary())
        model._reading_loss = lambda batch: (torch.zeros(()), torch.zeros(()))  # type: ignore[method-assign]
        batches = ablation.questions(shelves, asked, 3)
        ways = [
            (batch.latents - batch.instead).square().sum(dim=(2, 3, 4))
            for batch in batches
            if batch.instead is not None
        ]
        left = [(0.5 * way / way.amax(dim=1, keepdim=True).clamp_min(1.0)).square() for way in ways]
        heard = [batch.heard for batch in batches if batch.heard is not None]
        expected = sum(float((part * where).sum()) for part, where in zip(left, heard, strict=True))
        expected /= sum(float(where.sum()) for where in heard)
        assert ablation.error(model, asked, batches) == pytest.approx(expected, rel=0.02)
        assert expected == pytest.approx(0.25) or asked == "words behind a switch"


def test_runs_that_are_done_are_not_done_again(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_data(tmp_path)
    from models.taehv import AutoencoderTAEHV

    AutoencoderTAEHV(**SMALL_AE).save_pretrained(tmp_path / "autoencoder")
    monkeypatch.setattr(ablation, "SHARDS", {data.FRAMES: 4, data.FIRST: 4, data.PICTURE: 9, data.TURN: 8})
    monkeypatch.setattr(ablation, "BATCHES", 1)
    monkeypatch.setattr(ablation, "BATCH", 2)
    monkeypatch.setattr(ablation, "RUNS", 3)
    monkeypatch.setattr(ablation, "COLUMNS", 2)
    monkeypatch.setattr(ablation, "_ROW", "+-")
    ablation.make_held_out(tmp_path, 0)
    said: list[str] = []
    result = ablation.ablate(tmp_path, steps=1, workers=1, batch_size=2, report=said.append)
    assert list(result["errors"]) == ["0", "1", "2"]
    assert all(set(row) == set(ablation.ASKED) for row in result["errors"].values())
    assert len(said) == 3
    monkeypatch.setattr(ablation, "RUNS", 1)
    one, other, _ = result["errors"].values()
    assert one != other, "other ingredients are other runs"
    faster = ablation.ablate(tmp_path, steps=1, workers=1, batch_size=2, rate=3.0, report=str)
    assert faster["errors"]["0"] != one, "another rate is another run, not the kept one"
    result = faster
    monkeypatch.setattr(ablation, "train_dit", lambda *_, **__: pytest.fail("trained again"))
    assert ablation.ablate(tmp_path, steps=1, workers=1, batch_size=2, rate=3.0, report=said.append) == result
    assert len(said) == 3
