"""The recipe on a card: in parts that go on from small files, and without a wait in its loop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.taehv import AutoencoderTAEHV
from tests.played_device import AWAY, device, send
from tests.small_recipe import SMALL_AE, fake_data, noise_shelves
from tests.training.test_training_autoencoder import small_world
from training import autoencoder, data, dit, parts, world
from training.__main__ import main
from training.captions import vocabulary
from training.run import load_checkpoint
from training.steps import Ahead, Step, means
from training.windows import draw_batch

FILMS = {data.FRAMES: 2, data.FIRST: 2, data.PICTURE: data.ALIKE, data.TURN: data.CORNERS}


class Watch:
    """Minutes that pass only where a stage is trained: `each` a step."""

    def __init__(self, each: float) -> None:
        self.now, self.each = 0.0, each

    def monotonic(self) -> float:
        self.now += 60.0 * self.each
        return self.now


# ------------------------------------------------------------------ parts


def test_parts_go_on_from_what_was_packed_until_the_model_is_there(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_world(monkeypatch)
    monkeypatch.setattr("training.export.drift_spreads", lambda: [1.0] * 5)
    monkeypatch.setattr(autoencoder, "freeze", partial(autoencoder.freeze, clips=8))
    monkeypatch.setattr(parts, "PACKING_MINUTES", 0.0)
    monkeypatch.setattr(parts, "LEAST_MINUTES", 0.06)
    clock = Watch(0.05)
    for module in ("training.run", "training.parts"):
        monkeypatch.setattr(f"{module}.time", clock, raising=True)
    clock.process_time = lambda: 0.0  # type: ignore[attr-defined]
    sizes = parts.Sizes(minutes=2.0, part=1.0, batch=1, shards=1, films=FILMS)
    said: list[str] = []
    missing, count = list(parts.SHARES), 0
    while missing:
        run, before = tmp_path / f"run{count}", missing
        if count:  # all that is carried to the next machine
            shutil.copytree(tmp_path / f"run{count - 1}" / parts.PACKED, run / parts.PACKED)
        fake_data(run)
        missing = parts.next_part(run, device="cpu", sizes=sizes, say=said.append)
        assert missing == before[len(before) - len(missing) :]
        count += 1
        assert count < 20, said
    assert count > 2, "it was not in parts"
    assert [line for line in said if line.endswith("done")] == [f"{stage}: done" for stage in parts.SHARES]
    steps = [
        json.loads(line)["step"] for line in (run / "autoencoder.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert steps == sorted(set(steps)), "a step was made twice"
    assert set(load_checkpoint(run / "distil.pt") or {}) == {"ema", "step", "seconds"}
    assert (run / "embedded" / "transformer" / "config.json").exists()
    assert AutoencoderTAEHV.from_pretrained(run / "embedded" / "autoencoder").config["latents_std"]


def test_a_part_without_time_changes_nothing(tmp_path: Path) -> None:
    assert parts.next_part(tmp_path, device="cpu", sizes=parts.Sizes(part=0.0), say=str) == list(parts.SHARES)
    assert [path.name for path in tmp_path.iterdir()] == [parts.PACKED]


def test_without_a_card_the_command_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert main(["parts", "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "python -m training all" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ on a device that is played


@pytest.fixture
def films() -> list[data.Film]:
    rng = np.random.default_rng(0)
    return [data.draw_film(rng, switching=bool(i % 2)) for i in range(6)]


class Inline(Executor):
    """Runs everything at once, in this thread: the played device is entered here alone."""

    def map(self, work: Callable[..., Any], *what: Any, **_: Any) -> Iterator[Any]:
        return iter([work(*each) for each in zip(*what, strict=True)])


def test_a_step_never_waits_for_the_card_and_learns_what_a_processor_does(
    films: list[data.Film], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dit, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which has no device that is played
    shelves, kinds = noise_shelves(films, 2), set()
    torch.manual_seed(1)
    home, away = (dit.Denoiser(vocabulary(), channels=8, patch=1) for _ in range(2))
    away.load_state_dict(home.state_dict())
    optimizers = dit._optimizers(home)
    for seed in (0, 1, 2, 3, 5):
        batch = draw_batch(np.random.default_rng(seed), *shelves, 2)
        kinds.add((batch.forced, batch.joint > 0, batch.own > 0, batch.instead is not None))
        noise, shake = (torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
        tokens = home.text_encoder.tokenize(batch.prompts)
        step = Step(batch, noise, shake, tokens)
        loss, error = dit._gradients(home, Inline(), step, 1, None)
        told = means([(batch, loss, loss, error)])
        with device() as played:
            card = send(cast(Any, _copy(away, home)), learns=True)
            sent = Step(batch.to(cast(str, AWAY)), *(x.to(AWAY) for x in (noise, shake, tokens)))
            played.waits.clear()
            played.uploads.clear()
            its_loss, its_error = dit._gradients(cast(dit.Denoiser, card), Inline(), sent, 1, None)
            for optimizer in dit._optimizers(cast(dit.Denoiser, card)):
                optimizer.step()
            assert not played.waits, played.waits
            assert means([(sent.batch, its_loss, its_loss, its_error)]) == pytest.approx(told)
        for optimizer in optimizers:
            optimizer.step()
    assert len(kinds) > 2


def _copy(away: dit.Denoiser, home: dit.Denoiser) -> dit.Denoiser:
    """A model of its own with the same weights."""
    made = dit.Denoiser(vocabulary(), channels=8, patch=1)
    made.load_state_dict(home.state_dict())
    return made


def test_films_that_are_painted_together_are_the_films_painted_alone(films: list[data.Film]) -> None:
    together = data.render_films(films, size=24, start=8)
    for film, pixels in zip(films, together, strict=True):
        assert torch.equal(data.render_film(film, size=24, start=8), pixels)


def test_shards_made_many_films_at_once_are_the_same(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = AutoencoderTAEHV(**SMALL_AE).eval()
    monkeypatch.setattr(world, "SIZE", 32)
    for frames in (data.PICTURE, data.TURN):
        drawn = data._draw_films(np.random.default_rng(1), 2 * FILMS[frames], frames)
        half = len(drawn) // 2
        with torch.no_grad():
            apart = torch.cat([data._encode(some, model) for some in (drawn[:half], drawn[half:])])
            torch.testing.assert_close(data._encode(drawn, model), apart, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------ drawn ahead


@pytest.mark.parametrize("ahead", [False, True])
def test_every_step_is_drawn_once_and_in_order(ahead: bool) -> None:
    asked: list[int] = []

    def draw(step: int, progress: float) -> Step:
        asked.append(step)
        return cast(Step, step)

    class At:
        step, progress = 5, 0.0

    clock: Any = At()
    with Ahead(draw, ahead) as drawn:
        taken = []
        for _ in range(4):
            taken.append(drawn.take(clock))
            clock.step += 1
    assert taken == [5, 6, 7, 8]
    assert asked[:4] == [5, 6, 7, 8]
    assert asked == [*range(5, 5 + len(asked))]


def test_a_step_that_cannot_be_drawn_ends_the_run() -> None:
    def draw(step: int, progress: float) -> Step:
        if step:
            raise ValueError("no films")
        return cast(Step, step)

    class At:
        step, progress = 0, 0.0

    clock: Any = At()
    with Ahead(draw, True) as drawn:
        drawn.take(clock)
        clock.step = 1
        with pytest.raises(ValueError, match="no films"):
            drawn.take(clock)
