"""The transformer's training, small: what its losses ask, and runs that survive a kill."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.attention import CausalAttnProcessor
from tests.small_recipe import fake_data
from training import data, dit, windows
from training.captions import vocabulary
from training.mix import USUAL
from training.run import Clock
from training.sample import sample


def test_written_out_attention_equals_the_models_own(small: None) -> None:
    torch.manual_seed(0)
    model = dit.Denoiser(vocabulary()).double()
    latents, sigma = torch.randn(1, 6, 8, 4, 4).double(), torch.rand(1, 6).double()
    text = model.text_encoder.encode(["a red ball bounces"])
    one = model.transformer.forward_train(latents, 1000 * sigma, text, chunk=3, clean=latents)
    for block in model.transformer.blocks:
        block.attn1.set_processor(CausalAttnProcessor())
        block.attn2.set_processor(CausalAttnProcessor())
    other = model.transformer.forward_train(latents, 1000 * sigma, text, chunk=3, clean=latents)
    assert one.std() > 1e-3
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def _windows(clean: torch.Tensor, weight: torch.Tensor, **more: Any) -> windows.Batch:
    """Windows [B, F, 8, h, w] at half noise."""
    rows, frames, _, height, width = clean.shape
    return windows.Batch(
        clean,
        torch.full((rows, frames), 0.5),
        torch.zeros(rows, frames),
        weight,
        torch.ones(rows, frames, height, width),
        torch.zeros(rows, frames, 2 * height, 2 * width),
        torch.zeros(rows, frames, 4),
        [""] * rows,
        **more,
    )


@pytest.mark.parametrize("ladder", [False, True])
def test_history_of_the_models_own_is_painted_behind_what_it_painted_before(small: None, ladder: bool) -> None:
    model = dit.Denoiser(vocabulary())
    clean = torch.randn(1, 6, 8, 4, 4)
    weight = torch.tensor([[0.0, 1, 1, 1, 1, 1]])
    calls = []

    def flow(batch: windows.Batch, noisy: torch.Tensor, sigma: torch.Tensor, history: torch.Tensor, *_: Any) -> Any:
        """Sees the truth, and adds to it the error of the frame before and one more."""
        calls.append(torch.is_grad_enabled())
        error = torch.roll(history - clean, 1, dims=1) + 1.0
        return (noisy - (clean + error)) / sigma[..., None, None, None]

    model.flow = flow  # type: ignore[method-assign]
    for rounds in (1, 2, 3):
        batch = _windows(clean, weight, chunk=1, forced=True, own=rounds, ladder=ladder)
        batch = replace(batch, history_noise=torch.full((1, 6), 0.4))
        painted = model._own_history(batch, 0.6 * clean + 0.4 * torch.randn_like(clean), torch.zeros(1, 1))
        errors = (painted - clean)[0].mean(dim=(1, 2, 3))
        expected = torch.tensor([0.0, *(min(rounds, place) for place in range(1, 6))])  # what does not count is true
        torch.testing.assert_close(errors, expected, rtol=0, atol=1e-5)
    assert calls == [False] * (6 if ladder else 12)


def test_loss_of_the_true_flow_is_zero_and_counts_only_what_it_should(small: None) -> None:
    model = dit.Denoiser(vocabulary())
    nothing = torch.zeros(())
    model._reading_loss = lambda batch: (nothing, nothing)  # type: ignore[method-assign]  # it has a test of its own
    clean, noise = torch.randn(2, 3, 8, 4, 4), torch.randn(2, 3, 8, 4, 4)
    batch = _windows(clean, torch.tensor([[1.0, 1, 1], [0, 0, 0]]), chunk=3)
    tokens = model.text_encoder.tokenize(batch.prompts)
    flows = {"true": noise - clean, "wrong": noise}
    for name, flow in flows.items():
        model.transformer.forward_train = lambda *_, flow=flow, **__: flow  # type: ignore[method-assign]  # a known answer
        loss, error = model.loss(batch, noise, noise, tokens)
        assert error.shape == (2, 3)
        assert float(loss) == pytest.approx(0.0 if name == "true" else float(3 * clean[0].square().mean()), rel=1e-5)
    under = torch.randn_like(
        clean
    )  # from half noise over something else, the way to the film is half over in half the time
    model.transformer.forward_train = lambda *_, **__: noise + under - 2 * clean  # type: ignore[method-assign]
    loss, _ = model.loss(replace(batch, under=under), noise, noise, tokens)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_listening_costs_the_part_of_the_way_that_is_left_however_short_it_is(small: None) -> None:
    deaf, listener = (dit.Denoiser(vocabulary(), replace(USUAL, listening=part)) for part in (0.0, 2.0))
    nothing = torch.zeros(())
    clean, noise = torch.randn(3, 1, 8, 4, 4), torch.randn(3, 1, 8, 4, 4)
    for size, least in ((3.0, 0.0), (1.0, 0.0), (0.01, 1.0)):  # what cannot be seen is not listened for
        way = size * torch.randn(3, 1, 8, 4, 4)
        way[2] = 0.0  # there is nothing else to ask for
        for under, left in itertools.product((clean, clean - way), (0.0, 0.5, 1.0)):
            batch = _windows(clean, torch.tensor([[1.0], [0], [1]]), chunk=1)
            batch = replace(batch, under=under, instead=clean - way, heard=batch.weight)
            tokens = listener.text_encoder.tokenize(batch.prompts)
            flow = 0.5 * under + 0.5 * noise - (clean - left * way)
            losses = []
            for model in (deaf, listener):
                model._reading_loss = lambda batch: (nothing, nothing)  # type: ignore[method-assign]
                model.transformer.forward_train = lambda *_, flow=flow, **__: 2 * flow  # type: ignore[method-assign]
                losses.append(float(model.loss(batch, noise, noise, tokens)[0]))
            expected = 2.0 * left**2 if not least else 0.0
            assert losses[1] - losses[0] == pytest.approx(expected, abs=1e-3)
        unheard = replace(batch, heard=torch.zeros(3, 1))
        assert deaf.loss(unheard, noise, noise, tokens)[0] == listener.loss(unheard, noise, noise, tokens)[0]
    way = torch.randn(1, 2, 8, 4, 4)  # while a switch dissolves only half of the way is to be gone
    way[:, 0] = way[:, 1] / 2
    clean, noise = torch.randn(2, 1, 2, 8, 4, 4)
    batch = replace(_windows(clean, torch.ones(1, 2), chunk=1), instead=clean - way, heard=torch.tensor([[1.0, 0.0]]))
    for model in (deaf, listener):
        model.transformer.forward_train = lambda *_, **__: noise - clean + 2 * way  # type: ignore[method-assign]
    losses = [float(model.loss(batch, noise, noise, tokens[:1])[0]) for model in (deaf, listener)]
    assert losses[1] - losses[0] == pytest.approx(2.0 * 0.25**2, abs=1e-3)


def test_outline_and_course_are_read_off_the_tokens_of_the_noisy_frames(small: None) -> None:
    torch.manual_seed(0)
    model = dit.Denoiser(vocabulary())
    outline = (torch.rand(2, 3, 8, 16) < 0.3).float()  # 2 x 4 tokens a frame
    weight = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    tokens = 40 * outline.unflatten(2, (2, 4)).unflatten(4, (4, 4)).transpose(3, 4).flatten(4).flatten(1, 3) - 20
    width = model.outline.in_features
    hidden = torch.nn.functional.pad(tokens, (0, width - 16))
    history = torch.randn(2, 24, width)  # teacher forcing puts the clean frames first
    with torch.no_grad():
        model.outline.weight.copy_(torch.eye(16, width))
        model.outline.bias.zero_()
    latents = torch.zeros(2, 3, 8, 4, 8)
    course = torch.randn(2, 3, 4)
    hidden[..., 16:20] = course.repeat_interleave(8, dim=1)
    with torch.no_grad():
        model.course.weight.copy_(torch.eye(width)[16:20])
        model.course.bias.zero_()
    batch = windows.Batch(latents, weight, weight, weight, outline, outline, course, ["", ""], 3, True)

    def losses(hidden: torch.Tensor) -> list[float]:
        model._tap.hidden = hidden
        return [float(loss.detach()) for loss in model._reading_loss(batch)]

    assert max(losses(torch.cat([history, hidden], dim=1))) < 1e-3
    assert min(losses(torch.cat([hidden, history], dim=1))) > 1
    flipped = tokens.unflatten(-1, (4, 4)).transpose(-1, -2).flatten(-2)
    assert losses(torch.nn.functional.pad(flipped, (0, width - 16)))[0] > 1


def test_a_killed_transformer_run_goes_on_as_if_it_had_not_been(tmp_path: Path, small: None) -> None:
    weights = []
    for name, stops in (("whole", (4,)), ("killed", (2, 4))):
        out = tmp_path / name
        fake_data(out)
        for stop in stops:
            # The learning rate depends on the planned length, so the first sitting is cut short, not shortened.
            clock_steps, save_every = 4, 2
            if stop == 2:
                with pytest.raises(KeyboardInterrupt):
                    dit.train_dit(
                        out,
                        steps=clock_steps,
                        save_every=save_every,
                        log_every=1,
                        batch_size=1,
                        look=_stop,
                        look_minutes=0.0,
                    )
            else:
                model = dit.train_dit(out, steps=clock_steps, save_every=save_every, log_every=1, batch_size=1)
                weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    lines = [json.loads(line) for line in (tmp_path / "killed" / "dit.jsonl").read_text().splitlines()]
    assert [line["resumed_at"] for line in lines if "resumed_at" in line] == [0, 2]
    assert len(dit.load_denoiser(tmp_path / "whole").state_dict()) == len(weights[0])


def test_the_last_step_is_saved_even_if_time_runs_out_over_a_look(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_data(tmp_path)
    looks: list[int] = []
    passed = 0.0

    def seconds(_: Clock) -> float:
        nonlocal passed
        passed += 0.01
        return passed

    def look(model: dit.Denoiser, step: int) -> None:
        nonlocal passed
        looks.append(step)
        passed += 60.0

    monkeypatch.setattr(Clock, "seconds", property(seconds))
    trained = dit.train_dit(tmp_path, minutes=1.0, batch_size=1, workers=1, look=look, look_minutes=0.0)
    saved = dit.load_denoiser(tmp_path).state_dict()
    assert looks[0] == 1
    assert all(torch.equal(value, saved[name]) for name, value in trained.state_dict().items())


def test_a_run_can_start_from_shipped_weights_and_says_so(tmp_path: Path, small: None) -> None:
    torch.manual_seed(3)
    shipped = dit.Denoiser(vocabulary())
    shipped.transformer.save_pretrained(tmp_path / "model" / "transformer")
    shipped.text_encoder.save_pretrained(tmp_path / "model" / "text_encoder")
    fake_data(tmp_path / "run")
    settings = {"steps": 1, "log_every": 1, "batch_size": 1}
    started = dit.train_dit(tmp_path / "run", start_from=tmp_path / "model", **settings)
    fake_data(tmp_path / "fresh")
    fresh = dit.train_dit(tmp_path / "fresh", **settings)
    key = "transformer.blocks.0.ffn.net.2.weight"
    wanted = shipped.state_dict()[key]
    assert (started.state_dict()[key] - wanted).abs().mean() < 0.2 * (fresh.state_dict()[key] - wanted).abs().mean()
    assert "started_from" in (tmp_path / "run" / "dit.jsonl").read_text()


def test_weights_for_other_latents_give_all_but_the_layers_that_touch_latents_and_the_curve_says_so(
    tmp_path: Path, small: None
) -> None:
    torch.manual_seed(3)
    shipped = dit.Denoiser(vocabulary(), channels=5, patch=2)
    shipped.transformer.save_pretrained(tmp_path / "model" / "transformer")
    shipped.text_encoder.save_pretrained(tmp_path / "model" / "text_encoder")
    model = dit.Denoiser(vocabulary(), channels=8, patch=4)
    first = model.transformer.patch_embedding.weight.clone()
    fresh = dit._start(model, tmp_path / "model")
    assert {name.split(".")[1] for name in fresh} == {"patch_embedding", "proj_out"}
    assert torch.equal(model.transformer.patch_embedding.weight, first)
    key = "transformer.blocks.0.ffn.net.2.weight"
    assert torch.equal(model.state_dict()[key], shipped.state_dict()[key])
    fake_data(tmp_path / "run")
    dit.train_dit(tmp_path / "run", start_from=tmp_path / "model", steps=1, log_every=1, batch_size=1)
    said = [json.loads(line) for line in (tmp_path / "run" / "dit.jsonl").read_text().splitlines()]
    assert next(line["new"] for line in said if "new" in line) == fresh


def test_a_latent_frame_is_as_many_tokens_whatever_its_side(tmp_path: Path, small: None) -> None:
    fake_data(tmp_path)
    side = data.load_shelf(tmp_path / "data").latents.shape[-1]
    trained = dit.train_dit(tmp_path, steps=1, batch_size=1)
    assert side == 24
    assert tuple(trained.transformer.config["patch_size"]) == (1, side // dit.TOKENS, side // dit.TOKENS)
    assert dit.load_denoiser(tmp_path).patch == trained.patch == 4
    with torch.no_grad():
        film = sample(trained, [["a red ball"] * 2], steps=1)
    assert film.shape == (1, 6, 8, side, side)


def test_words_that_the_shipped_weights_know_keep_their_meaning_and_new_ones_begin_afresh(
    tmp_path: Path, small: None
) -> None:
    torch.manual_seed(3)
    shipped, model = dit.Denoiser(["zebra", "ball"]), dit.Denoiser(vocabulary())
    fresh = model.text_encoder.state_dict()["embedding.weight"].clone()
    for name in ("transformer", "text_encoder"):
        getattr(shipped, name).save_pretrained(tmp_path / name)
    dit._start(model, tmp_path)
    meaning, known = (m.text_encoder.state_dict()["embedding.weight"] for m in (model, shipped))
    row = {word: number for number, word in enumerate(model.text_encoder.words)}
    assert torch.equal(meaning[row["ball"]], known[shipped.text_encoder.words.index("ball")])
    assert torch.equal(meaning[row["star"]], fresh[row["star"]])


def _stop(_: dit.Denoiser, step: int) -> None:
    if step >= 2:
        raise KeyboardInterrupt
