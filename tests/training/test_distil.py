"""Distillation: what its teacher asks for, and a decoder that learns from faulty latents without touching them."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import training.export
from models.taehv import AutoencoderTAEHV
from tests.small_recipe import SMALL_AE, fake_data, noise_shelves
from training import autoencoder, data, dit, windows
from training.__main__ import SHIPPED
from training.blend import blend
from training.captions import vocabulary
from training.distil import Teacher, student, train_distil
from training.export import drift_spreads, export, newest
from training.sample import Redraw, sigmas
from training.windows import Batch


class Swirl(nn.Module):
    """A denoiser whose flow is known: it shrinks a frame by its level, and more so where a prompt is given."""

    def flow(self, batch: Batch, noisy: Tensor, sigma: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
        asked = 1.0 + (tokens[:, 0] > 0).float()[:, None, None, None, None]
        return asked * sigma[..., None, None, None] * noisy


def _batch(sigma: Tensor, ladder: bool) -> Batch:
    shape = (*sigma.shape, 2, 4, 4)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    places = torch.zeros(*sigma.shape, 4, 4)
    zeros = torch.zeros(sigma.shape)
    course = torch.zeros(*sigma.shape, 4)
    outline = torch.zeros(*sigma.shape, 8, 8)
    return Batch(latents, sigma, zeros, zeros + 1, places, outline, course, ["a"] * len(sigma), 1, ladder=ladder)


def test_an_older_student_says_the_flow_of_the_channels_that_are_its_own() -> None:
    older = Swirl()
    older.transformer = SimpleNamespace(config={"in_channels": 1})  # type: ignore[assignment]
    alone, with_it = (Teacher(Swirl(), steps=4, guidance=3.0, kept=kept) for kept in (None, older))  # type: ignore[arg-type]
    batch, tokens = _batch(torch.tensor([alone.levels]), ladder=True), torch.ones(1, 3, dtype=torch.int64)
    own, both = (teacher(batch, batch.latents, batch.latents, tokens) for teacher in (alone, with_it))
    assert torch.equal(both[:, :, 1:], own[:, :, 1:])
    assert torch.equal(both[:, :, :1], older.flow(batch, batch.latents, batch.sigma, batch.latents, tokens)[:, :, :1])
    assert not torch.allclose(both[:, :, :1], own[:, :, :1])


def test_what_ships_is_a_student_of_this_recipe() -> None:
    model = student(SHIPPED)
    weights = load_file(SHIPPED / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(model.transformer.state_dict()[name], value.float()) for name, value in weights.items())


def test_student_steps_go_where_two_guided_teacher_steps_go() -> None:
    teacher = Teacher(Swirl(), steps=4, guidance=3.0)  # type: ignore[arg-type]  # a denoiser with a known flow
    ladder = sigmas(8)
    assert teacher.levels == pytest.approx(ladder[:-1:2].tolist())
    sigma = torch.tensor([teacher.levels])
    batch = _batch(sigma, ladder=True)
    tokens = torch.ones(1, 3, dtype=torch.int64)
    found = teacher(batch, batch.latents, batch.latents, tokens)
    weight = 1.0 + 3.0 * (2.0 - 1.0)  # free + guidance * (asked - free), both times the level
    for frame in range(4):
        start, middle, end = (float(ladder[2 * frame + i]) for i in range(3))
        x = batch.latents[:, frame]
        half = x + (middle - start) * weight * start * x
        arrived = half + (end - middle) * weight * middle * half
        assert torch.allclose(x + (end - start) * found[:, frame], arrived, atol=1e-5)
    one = x + (end - start) * weight * start * x
    assert (one - arrived).abs().max() > 0.05  # two steps are not one


def test_clean_history_stays_as_it_is_while_the_teacher_takes_its_steps() -> None:
    class Watched(Swirl):
        seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

        def flow(self, batch: Batch, noisy: Tensor, sigma: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
            self.seen.append((noisy[:, :2], sigma[:, :2]))
            return super().flow(batch, noisy, sigma, history, tokens)

    teacher = Teacher(Watched(), steps=4)  # type: ignore[arg-type]
    batch = _batch(torch.tensor([[0.0, 0.0, teacher.levels[1], teacher.levels[1]]]), ladder=True)
    found = teacher(batch, batch.latents, batch.latents, torch.ones(1, 3, dtype=torch.int64))
    assert found.isfinite().all()
    assert len(Watched.seen) == 4
    for noisy, sigma in Watched.seen:
        assert torch.equal(noisy, batch.latents[:, :2])
        assert not sigma.any()


def test_other_windows_and_dropped_prompts_learn_the_teachers_flow_at_their_place() -> None:
    teacher = Teacher(Swirl(), steps=4, guidance=3.0)  # type: ignore[arg-type]
    sigma = torch.tensor([[0.3, 0.7], [0.3, 0.7]])
    batch = _batch(sigma, ladder=False)
    tokens = torch.tensor([[5, 0], [0, 0]])
    found = teacher(batch, batch.latents, batch.latents, tokens)
    wide = sigma[..., None, None, None] * batch.latents
    assert torch.allclose(found[0], 4.0 * wide[0])  # asked is twice free: 1 + 3 * 1
    assert torch.allclose(found[1], wide[1])  # nothing was asked, so there is nothing to guide by


def test_batches_for_distilling_hold_the_samplers_levels_only_where_they_can() -> None:
    rng = np.random.default_rng(0)
    shelves = noise_shelves([data.draw_film(rng, switching=bool(i % 2)) for i in range(12)], groups=2)
    levels = sigmas(4)[:-1]
    kinds = set()
    for step in range(40):
        batch = windows.draw_batch(np.random.default_rng(step), *shelves, 2, 1.0, levels.tolist())
        away = (batch.sigma[batch.sigma > 0][:, None] - levels).abs().amin(-1)
        assert batch.ladder == (float(away.max()) < 1e-6)
        short = batch.latents.shape[1] in (data.PICTURE, data.FIRST, data.TURN)
        assert batch.ladder == (not batch.joint and (batch.forced or short))
        kinds.add(batch.ladder)
        assert not (batch.own and batch.ladder) or (batch.history_noise == levels[-1]).all()
        assert batch.rows(slice(0, 1)).ladder == batch.to("cpu").ladder == batch.ladder
    assert kinds == {True, False}


def test_a_student_begins_as_its_teacher_and_is_kept_beside_it(tmp_path: Path, small: None) -> None:
    fake_data(tmp_path)
    dit.train_dit(tmp_path, steps=2, log_every=1, batch_size=1)
    teacher = dit.load_denoiser(tmp_path).state_dict()
    student = train_distil(tmp_path, steps=2, log_every=1, batch_size=1).state_dict()
    key = "transformer.blocks.0.ffn.net.2.weight"
    apart = (student[key] - teacher[key]).abs().mean()
    assert 0 < apart < 0.2 * teacher[key].abs().mean()
    assert torch.equal(dit.load_denoiser(tmp_path).state_dict()[key], teacher[key])
    assert torch.equal(dit.load_denoiser(tmp_path, "distil").state_dict()[key], student[key])
    assert any("loss" in json.loads(line) for line in (tmp_path / "distil.jsonl").read_text().splitlines())


def test_a_blend_lies_between_the_run_and_the_model_it_went_on_from(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.drift_spreads", partial(drift_spreads, clips=2))  # of 64, which takes a minute
    fake_data(tmp_path)
    AutoencoderTAEHV(**SMALL_AE).save_pretrained(tmp_path / "autoencoder")
    for name in ("autoencoder", "decoder"):
        (tmp_path / f"{name}.jsonl").write_text('{"step": 1, "seconds": 1.0}\n')
    torch.manual_seed(7)
    old = dit.Denoiser(vocabulary(), patch=4)
    for part in ("transformer", "text_encoder"):
        getattr(old, part).to(torch.bfloat16).save_pretrained(tmp_path / "old" / part)
    (tmp_path / "old" / "card.json").write_text('{"version": "7"}')
    new = dit.train_dit(tmp_path, steps=1, log_every=1, batch_size=1)
    blend(tmp_path, tmp_path / "old", 0.25)
    for key, value in dit.load_denoiser(tmp_path, "blend").state_dict().items():
        if key.split(".")[0] in ("transformer", "text_encoder") and value.is_floating_point():
            ends = (one.state_dict()[key].bfloat16().float() for one in (old, new))
            torch.testing.assert_close(value, torch.lerp(*ends, 0.25))
    card = export(tmp_path, tmp_path / "made")
    assert (card["training"]["blend_share"], card["training"]["blend_before"]) == (0.25, "7")
    assert all(0 < spread < 1 for spread in card["drift_spreads"])
    shipped = json.loads(Path("weights/embedded/card.json").read_bytes())
    assert not shipped.keys() - card.keys()
    assert shipped["transition"] == card["transition"]
    assert "25% of the weights so made, the rest version 7's" in (tmp_path / "made" / "README.md").read_text()
    made = load_file(tmp_path / "made" / "transformer" / "diffusion_pytorch_model.safetensors")
    blended = dit.load_denoiser(tmp_path, "blend").transformer.state_dict()
    assert all(torch.equal(value, blended[key].bfloat16()) for key, value in made.items())
    os.utime(tmp_path / "dit.pt", (later := (tmp_path / "blend.pt").stat().st_mtime + 1, later))
    assert newest(tmp_path) == "dit", "the run went on since"
    with pytest.raises(ValueError, match="no blend"):
        blend(tmp_path, tmp_path / "old", 1.5)
    dit.Denoiser(vocabulary(), patch=2).transformer.save_pretrained(tmp_path / "old" / "transformer")
    with pytest.raises(ValueError, match="other latents"):
        blend(tmp_path, tmp_path / "old", 0.5)
    dit.Denoiser(["zebra"]).text_encoder.save_pretrained(tmp_path / "old" / "text_encoder")
    with pytest.raises(ValueError, match="other words"):
        blend(tmp_path, tmp_path / "old", 0.5)


def test_a_model_behind_an_autoencoder_that_was_given_is_exported_and_says_so(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export, "drift_spreads", lambda: [1.0] * 5)
    fake_data(tmp_path)
    AutoencoderTAEHV(**SMALL_AE).save_pretrained(tmp_path / "autoencoder")
    dit.train_dit(tmp_path, steps=1, log_every=1, batch_size=1)
    card = export(tmp_path, tmp_path / "made")
    assert card["training"]["autoencoder_steps"] is None
    assert card["training"]["autoencoder_held_out_psnr_db"] is None
    page = (tmp_path / "made" / "README.md").read_text()
    assert "| an earlier run's |" in page
    assert "at unmeasured dB PSNR" in page


def test_decoder_learns_while_the_encoder_stays_and_a_killed_run_goes_on(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "DECODER_MIX", ((2, 5, None),))
    monkeypatch.setattr(autoencoder, "save_page", lambda *_: None)  # it has a test of its own
    monkeypatch.setattr(autoencoder, "HELD_OUT_CLIPS", 1)
    monkeypatch.setattr(autoencoder, "HELD_OUT_FRAMES", 9)
    torch.manual_seed(1)
    before = AutoencoderTAEHV(**SMALL_AE, latents_mean=[0.1] * 8, latents_std=[0.7] * 8)
    redraw = Redraw(dit.Denoiser(vocabulary(), patch=4))
    made = []
    for name, stops in (("whole", (6,)), ("killed", (2, 6))):
        before.save_pretrained(tmp_path / name / "autoencoder")
        for stop in stops:
            if stop == 2:
                with monkeypatch.context() as killed:
                    killed.setattr(autoencoder, "JUDGED", 1)
                    killed.setattr(autoencoder, "held_out", _stop)
                    with pytest.raises(KeyboardInterrupt):
                        autoencoder.train_decoder(tmp_path / name, steps=6, save_every=2, log_every=1, redraw=redraw)
            else:
                made.append(autoencoder.train_decoder(tmp_path / name, steps=6, log_every=1, redraw=redraw))
    after, again = (model.state_dict() for model in made)
    assert all(torch.equal(after[key], again[key]) for key in after)
    for key, value in before.state_dict().items():
        assert torch.equal(value, after[key]) == key.startswith("encoder")
    loaded = AutoencoderTAEHV.from_pretrained(tmp_path / "whole" / "autoencoder")
    assert loaded.config["latents_mean"] == [0.1] * 8
    lines = [json.loads(line) for line in (tmp_path / "whole" / "decoder.jsonl").read_text().splitlines()]
    assert {"psnr", "redrawn_psnr"} <= {key for line in lines for key in line}


def _stop(*_: object) -> float:
    raise KeyboardInterrupt


def test_redrawn_latents_are_near_the_true_ones_and_repeat(small: None) -> None:
    torch.manual_seed(2)
    redraw = Redraw(dit.Denoiser(vocabulary()))
    latents = torch.randn(2, 3, 8, 4, 4)
    first, second = (redraw(latents, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, redraw(latents, torch.Generator().manual_seed(5)))
    assert torch.isfinite(first).all()


def test_encoder_sees_a_smaller_picture_and_streams_as_it_encodes_whole_clips() -> None:
    torch.manual_seed(3)
    model = AutoencoderTAEHV(**{**SMALL_AE, "encoder_patch_size": 2}).eval()
    assert (model.spatial_scale, model.encoder_shrink) == (8, 2)
    pixels = torch.rand(1, 9, 3, 32, 48)
    small = torch.nn.functional.avg_pool2d(pixels[0], 2)[None]
    with torch.no_grad():
        latents = model.encode(pixels, pad="start")
        assert latents.shape == (1, 3, 8, 4, 6)
        assert torch.allclose(latents, model.encode(small, pad="start", shrunk=True), atol=1e-6)
        assert model.decode(latents).shape == pixels.shape
        state = model.init_encode_state(1, 4, 6)
        first, state = model.encode_stream(pixels[:, :1], state)
        rest, _ = model.encode_stream(pixels[:, 1:], state)
        assert torch.allclose(torch.cat([first, rest], dim=1), latents, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 4"):
        model.encode(pixels[..., :18], shrunk=True)
    with pytest.raises(ValueError, match="must divide"):
        AutoencoderTAEHV(**{**SMALL_AE, "encoder_patch_size": 3})
