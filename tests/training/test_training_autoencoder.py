"""The autoencoder's recipe: it learns, goes on, settles on demand, and its sharpness is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs import TAEHVConfig
from models.taehv import AutoencoderTAEHV
from tests.small_recipe import SMALL_AE
from training import autoencoder, crops, deepen, inherit, pack, reconstruction, run, world
from training.__main__ import main
from training.initialise import initialise
from training.run import step_seed
from weights.load import load_component


def _smooth_clips(rng: np.random.Generator, clips: int, frames: int, *_: object, **__: object) -> torch.Tensor:
    """Slowly changing blobs of colour: as small a world as an autoencoder can learn."""
    colours = torch.from_numpy(rng.random((clips, 3, 2, 4, 4))).float()
    video = torch.nn.functional.interpolate(colours, size=(frames, 32, 32), mode="trilinear")
    return video.transpose(1, 2)


@pytest.fixture
def smooth(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small recipe on a small world."""
    small_world(monkeypatch)


def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of 32 x 32, without the pictures that a page takes."""
    monkeypatch.setattr(autoencoder, "MIX", ((4, 5, None),))
    monkeypatch.setattr(autoencoder, "render_batch", _smooth_clips)
    monkeypatch.setattr(autoencoder, "JUDGED", 1)
    monkeypatch.setattr(autoencoder, "save_page", lambda *_: None)


def test_autoencoder_learns_goes_on_after_a_kill_and_normalises_its_latents(
    tmp_path: Path, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = autoencoder.train_autoencoder(tmp_path / "whole", steps=40, log_every=1, save_every=100)
    curve = [json.loads(line) for line in (tmp_path / "whole" / "autoencoder.jsonl").read_text().splitlines()]
    loss = [line["picture"] for line in curve if "picture" in line]
    assert np.mean(loss[-5:]) < 0.7 * np.mean(loss[:3])

    loaded = AutoencoderTAEHV.from_pretrained(tmp_path / "whole" / "autoencoder")
    with torch.no_grad():
        latents = loaded.encode(_smooth_clips(step_seed(5, 5, "x"), 40, 9), pad="start")
    assert 0.8 < float(latents.std()) < 1.2
    assert abs(float(latents.mean())) < 0.2
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), whole.parameters(), strict=True))

    with monkeypatch.context() as killed:
        killed.setattr(autoencoder, "held_out", _kill)  # comes right after a checkpoint
        with pytest.raises(KeyboardInterrupt):
            autoencoder.train_autoencoder(tmp_path / "cut", steps=40, log_every=1, save_every=25)
    resumed = autoencoder.train_autoencoder(tmp_path / "cut", steps=40, log_every=1, save_every=100)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def _kill(*_: object) -> dict[str, float]:
    raise KeyboardInterrupt


def _weights(path: Path) -> list[Tensor]:
    return list(AutoencoderTAEHV.from_pretrained(path / "autoencoder").parameters())


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_a_run_that_is_prolonged_is_the_run_that_was_longer_from_the_start(tmp_path: Path, smooth: None) -> None:
    autoencoder.train_autoencoder(tmp_path / "long", steps=12)
    autoencoder.train_autoencoder(tmp_path / "twice", steps=5)
    autoencoder.train_autoencoder(tmp_path / "twice", steps=12)
    assert _same(_weights(tmp_path / "twice"), _weights(tmp_path / "long"))


def test_a_run_that_goes_on_keeps_the_shape_it_began_with(
    tmp_path: Path, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {**autoencoder.CONFIG, "latent_channels": 5}
    autoencoder.train_autoencoder(tmp_path, steps=2, config=shape)
    assert autoencoder.train_autoencoder(tmp_path, steps=3).config["latent_channels"] == 5
    assert autoencoder.cool_autoencoder(tmp_path, steps=2).config["latent_channels"] == 5


def test_a_settled_model_is_trained_further_without_its_statistics_and_the_curve_says_so(
    tmp_path: Path, smooth: None
) -> None:
    shape = {**autoencoder.CONFIG, "latent_channels": 5}
    settled = autoencoder.train_autoencoder(tmp_path / "first", steps=30, config=shape)
    begun = inherit.unsettled(tmp_path / "first" / "autoencoder")
    assert begun.config["latents_mean"] is None
    assert begun.config["latents_std"] is None
    assert _same(list(begun.parameters()), list(settled.parameters()))

    arguments = ["--out", str(tmp_path / "next"), "--start_from", str(tmp_path / "first"), "--steps"]
    assert main(["autoencoder", *arguments, "2"]) == 0
    moved, fresh = (
        sum(float((a - b).detach().abs().sum()) for a, b in zip(_weights(path), settled.parameters(), strict=True))
        for path in (tmp_path / "next", _fresh(tmp_path / "fresh", shape))
    )
    assert 0 < moved < 0.1 * fresh
    first, *_ = [json.loads(line) for line in (tmp_path / "next" / "autoencoder.jsonl").read_text().splitlines()]
    assert first["started_from"] == "first"
    assert "warms up again" in first["note"]
    assert main(["autoencoder", *arguments, "4"]) == 0  # goes on with its own checkpoint and says nothing more
    assert (tmp_path / "next" / "autoencoder.jsonl").read_text().count("started_from") == 1
    assert AutoencoderTAEHV.from_pretrained(tmp_path / "next" / "autoencoder").config["latents_std"] is not None


def _fresh(path: Path, shape: dict[str, object]) -> Path:
    autoencoder.train_autoencoder(path, steps=2, config=shape, seed=1)
    return path


def test_a_cooldown_makes_a_model_and_leaves_the_run_as_it_was(
    tmp_path: Path, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder.train_autoencoder(tmp_path, steps=6)
    before, hot = (tmp_path / "autoencoder.pt").read_bytes(), _weights(tmp_path)
    autoencoder.cool_autoencoder(tmp_path, steps=8, log_every=1)
    cooled = _weights(tmp_path)
    assert not _same(cooled, hot)
    assert (tmp_path / "autoencoder.pt").read_bytes() == before

    with monkeypatch.context() as killed:  # a killed one goes on
        killed.setattr(autoencoder, "held_out", _kill)
        with pytest.raises(KeyboardInterrupt):
            autoencoder.cool_autoencoder(tmp_path, steps=8, save_every=5)
    autoencoder.cool_autoencoder(tmp_path, steps=8, log_every=1)
    assert _same(_weights(tmp_path), cooled)

    autoencoder.train_autoencoder(tmp_path, steps=9)  # the next begins where the run has come to by then
    autoencoder.cool_autoencoder(tmp_path, steps=8, log_every=1)
    curve = [json.loads(line) for line in (tmp_path / "cooldown.jsonl").read_text().splitlines()]
    assert {line["after"] for line in curve} == {6, 9}
    assert not _same(_weights(tmp_path), cooled)


def test_a_cooldown_settles_what_a_steady_rate_keeps_shaking(tmp_path: Path, smooth: None) -> None:
    autoencoder.train_autoencoder(tmp_path, steps=60)
    autoencoder.cool_autoencoder(tmp_path, steps=20)
    hot, cooled = (
        json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[-1])["held_out_psnr"]
        for name in ("autoencoder", "cooldown")
    )
    assert cooled > hot


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cooldown"], "run `python -m training autoencoder` first"),
        (["look"], "run `python -m training cooldown` first"),
        (["autoencoder", "--start_from", "nowhere"], "name a folder that holds an autoencoder"),
        (["pack", "--run", "dit"], "there is no run of that name"),
        (["unpack"], "say with --start_from which folder"),
        (["unpack", "--start_from", "nowhere"], "holds no packed run autoencoder"),
    ],
)
def test_where_something_is_missing_one_line_says_what(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_packed_and_unpacked_from_the_command_line(tmp_path: Path, smooth: None) -> None:
    autoencoder.train_autoencoder(tmp_path, steps=1)
    assert main(["pack", "--out", str(tmp_path)]) == 0
    assert main(["unpack", "--start_from", str(tmp_path / "packed"), "--out", str(tmp_path / "new")]) == 0
    assert run.load_checkpoint(tmp_path / "new" / "autoencoder.pt") is not None


def test_crops_are_squares_of_several_places_of_every_clip() -> None:
    cut = crops.render_batch(step_seed(0, 1, "crop"), 2, 5, 48, "cpu")
    assert cut.shape == (2 * crops.CROPS, 5, 3, 48, 48)
    assert not torch.equal(cut[0], cut[2])


def test_crops_near_the_object_hold_its_colour_more_often_than_chance() -> None:
    pixels = crops.render_batch(step_seed(0, 0, "crop"), 3, 5, 48, "cpu")
    assert pixels.shape == (6, 5, 3, 48, 48)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    moving = (pixels[:, 1:] - pixels[:, :-1]).abs().mean(dim=(1, 2, 3, 4))
    assert (moving > 0).float().mean() > 0.5


def _blur(pixels: Tensor, side: int = 3) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), side, 1, side // 2, count_include_pad=False).view_as(
        pixels
    )


def test_edge_energy_is_one_for_the_truth_less_when_blurred_and_more_when_oversharpened() -> None:
    pixels = world.render(reconstruction.look_clips(2)[0], 2)
    blurred = _blur(pixels)
    sharpened = pixels + (pixels - blurred)
    assert reconstruction.edge_energy(pixels, pixels) == pytest.approx(1.0)
    assert reconstruction.edge_energy(_blur(pixels, 5), pixels) < reconstruction.edge_energy(blurred, pixels) < 0.8
    assert reconstruction.edge_energy(sharpened, pixels) > 1.3
    assert reconstruction.overshoot(pixels, pixels) == 0.0
    assert reconstruction.overshoot(sharpened, pixels) > 0.1


def test_a_crisp_picture_that_is_a_little_off_costs_the_crisp_term_less_than_a_soft_one_in_its_place() -> None:
    pixels = torch.zeros(1, 2, 3, 48, 48)
    pixels[..., 16:32, 16:32] = 1.0
    beside, soft = pixels.roll(1, dims=-1), _blur(pixels)
    aside, blurred = (
        float(autoencoder.reconstruction_loss(one, pixels, 1.0) - autoencoder.reconstruction_loss(one, pixels))
        for one in (beside, soft)
    )
    assert aside < 0.5 * blurred
    assert float(autoencoder.reconstruction_loss(pixels, pixels, 1.0)) == 0.0


def test_what_moves_is_found_and_counts_more() -> None:
    pixels = torch.full((1, 4, 3, 32, 32), 0.5)
    for frame in range(4):
        pixels[:, frame, :, 4:8, 4 + 3 * frame : 8 + 3 * frame] = 1.0
    where = reconstruction.moving(pixels)[0, :, 0]
    assert where[:, 5, 6].all(), "the object's way"
    assert not where[:, 24:].any(), "what stands still"
    assert not reconstruction.moving(pixels[:, :1]).any()
    wrong_moving, wrong_still = pixels.clone(), pixels.clone()
    wrong_moving[..., 4:8, 4:8] -= 0.2
    wrong_still[..., 26:30, 26:30] -= 0.2
    losses = [float(autoencoder.reconstruction_loss(one, pixels)) for one in (wrong_moving, wrong_still)]
    assert losses[0] == pytest.approx(autoencoder.MOVING_WEIGHT * losses[1], rel=0.2)
    assert reconstruction.moving_psnr(wrong_still, pixels) == pytest.approx(100.0)
    assert reconstruction.moving_psnr(wrong_moving, pixels) < 30


def test_the_page_shows_the_hard_details_out_of_clips_that_training_never_draws() -> None:
    specs, _ = reconstruction.look_clips()
    assert all(world.is_held_out(spec.color, spec.shape, spec.motion, spec.scene) for spec in specs)
    assert {"star", "cross", "diamond"} <= {spec.shape for spec in specs}
    assert {"striped", "dotted"} <= {spec.pattern for spec in specs}
    assert {"snow", "night", "city"} <= {spec.scene for spec in specs}
    assert "rain" in {spec.weather for spec in specs}


def test_a_page_has_a_row_a_clip_and_the_truth_beside_what_became_of_it(tmp_path: Path, small: None) -> None:
    from PIL import Image

    torch.manual_seed(0)
    reconstruction.save_page(tmp_path / "page.png", AutoencoderTAEHV(**autoencoder.CONFIG), columns=1, zoom=1)
    with Image.open(tmp_path / "page.png") as picture:
        page = np.asarray(picture)
    assert page.shape == (world.SIZE * len(reconstruction.LOOKS), 2 * world.SIZE, 3)
    specs, starts = reconstruction.look_clips()
    true = world.render(specs, 9, start=starts)[0, 4].permute(1, 2, 0).numpy()
    assert np.abs(page[: world.SIZE, : world.SIZE] / 255.0 - true).max() < 0.01
    assert np.abs(page[: world.SIZE, world.SIZE :] / 255.0 - true).mean() > 0.05


@pytest.mark.parametrize(
    ("capabilities", "quicker"),
    [({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
def test_bf16_is_for_processors_that_have_instructions_for_it(
    capabilities: dict[str, bool], quicker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    run.multiplies_bf16.cache_clear()
    try:
        with run.autocast("cpu"):
            product = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
    finally:
        run.multiplies_bf16.cache_clear()
    assert product.dtype == (torch.bfloat16 if quicker else torch.float32)


def test_a_packed_run_goes_on_elsewhere_with_its_average_and_moments(tmp_path: Path, smooth: None) -> None:
    autoencoder.train_autoencoder(tmp_path / "run", steps=8)
    files = pack.pack(tmp_path / "run", "autoencoder", tmp_path / "packed")
    assert sum(file.stat().st_size for file in files) < 0.7 * (tmp_path / "run" / "autoencoder.pt").stat().st_size
    pack.unpack(tmp_path / "packed", "autoencoder", tmp_path / "elsewhere")
    for folder in ("run", "elsewhere"):
        autoencoder.train_autoencoder(tmp_path / folder, steps=10)
    for here, there in zip(_weights(tmp_path / "run"), _weights(tmp_path / "elsewhere"), strict=True):
        assert torch.allclose(here, there, rtol=0.02, atol=0.005)
    lines = (tmp_path / "elsewhere" / "autoencoder.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 10


def test_packed_files_are_small_whole_and_never_overwrite_a_run(
    tmp_path: Path, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "MEGABYTES", 0.2)
    autoencoder.train_autoencoder(tmp_path, steps=2)
    form, *parts = pack.pack(tmp_path, "autoencoder", tmp_path / "packed")
    assert len(parts) > 1
    with pytest.raises(FileExistsError, match="move it away"):
        pack.unpack(tmp_path / "packed", "autoencoder", tmp_path)
    parts[0].unlink()
    with pytest.raises(FileNotFoundError, match=parts[0].name):
        pack.unpack(tmp_path / "packed", "autoencoder", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    form.unlink()
    with pytest.raises(FileNotFoundError, match="holds no packed run"):
        pack.unpack(tmp_path / "packed", "autoencoder", tmp_path / "new")


def test_weights_that_fp16_cannot_hold_are_not_packed(tmp_path: Path) -> None:
    run.save_checkpoint(tmp_path / "x.pt", {"model": {"weight": torch.full((2, 2), 1e6)}, "step": 1})
    with pytest.raises(ValueError, match="fp16 cannot hold"):
        pack.pack(tmp_path, "x", tmp_path / "packed")


def test_a_deeper_one_keeps_the_outer_stages_and_begins_with_older_latents(
    tmp_path: Path, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One halving more; the new stage alone is fitted first, and both runs know what is kept."""
    monkeypatch.setattr(deepen, "render_batch", lambda *_, **__: _smooth_clips(*_[:3]))
    monkeypatch.setattr(deepen, "INNER_CLIPS", 16)
    monkeypatch.setattr(deepen, "WIDTHS", (16, 8))
    monkeypatch.setattr(deepen, "KEPT_WEIGHT", 20.0)
    monkeypatch.setattr(deepen, "INNER_RATES", (0.03, 4e-4))
    source, older = AutoencoderTAEHV(**SMALL_AE), AutoencoderTAEHV(**{**SMALL_AE, "patch_size": 8})
    for model, name in ((source, "source"), (older, "older")):
        initialise(model, _smooth_clips(step_seed(1, 0, name), 8, 5))
        autoencoder.freeze(model.eval(), tmp_path / name, 0, clips=8)
    begun, fitted = (
        deepen.deepen(inherit.unsettled(tmp_path / "source" / "autoencoder"), older, 0, steps=n) for n in (1, 40)
    )
    pixels = _smooth_clips(step_seed(9, 0, "x"), 8, 9)
    wanted = older.encode(pixels, pad="start")
    assert fitted.spatial_scale == 2 * source.spatial_scale
    assert _same(list(fitted.encoder[:4].parameters()), list(source.encoder[:4].parameters()))
    lacking = [float(deepen.apart(model.encode(pixels, pad="start"), wanted).detach()) for model in (begun, fitted)]
    assert lacking[1] < 0.85 * lacking[0], lacking

    monkeypatch.setattr(deepen, "INNER_STEPS", 2)
    out = tmp_path / "run"
    autoencoder.train_autoencoder(out, steps=3, log_every=1, start_from=tmp_path / "source", keep=tmp_path / "older")
    autoencoder.cool_autoencoder(out, steps=2, log_every=1)
    curves = [(out / f"{name}.jsonl").read_text().splitlines() for name in ("autoencoder", "cooldown")]
    assert [sum('"kept"' in line for line in curve) for curve in curves] == [3, 2]
    assert AutoencoderTAEHV.from_pretrained(out / "autoencoder").config["latent_channels"] == deepen.CHANNELS
    with pytest.raises(SystemExit):  # nothing to deepen
        main(["autoencoder", "--out", str(tmp_path / "no"), "--keep", str(tmp_path / "older")])


def test_what_is_trained_can_be_played(tmp_path: Path) -> None:
    """The shapes of the recipe are among those that a model's folder may have."""
    shape = {**autoencoder.CONFIG, "encoder_widths": (4, 4), "decoder_widths": (8, 8)}
    AutoencoderTAEHV(**shape).save_pretrained(tmp_path)
    loaded = load_component(AutoencoderTAEHV, tmp_path, schema=TAEHVConfig)
    assert loaded.config["upsample"] == autoencoder.CONFIG["upsample"]
