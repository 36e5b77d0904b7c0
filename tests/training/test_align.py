"""A transformer goes on behind another autoencoder: its first and last layers are fitted, not begun anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from tests import small_recipe
from tests.small_recipe import fake_data
from training import align, data, dit, world
from training.captions import vocabulary


def test_a_fit_finds_what_is_linear_and_says_how_much_of_all_that_is() -> None:
    torch.manual_seed(0)
    x, matrix, constant = torch.randn(4000, 6), torch.randn(6, 3), torch.randn(3)
    noise = torch.randn(4000, 3)
    for much, low, high in ((0.0, 0.999, 1.0), (1000.0, -0.01, 0.01)):
        squares = align.Squares(6, 3)
        y = x @ matrix + constant + much * noise
        for part in (slice(0, 1500), slice(1500, 4000)):
            squares.add(x[part], y[part])
        found, explained = squares.fit()
        assert low <= explained <= high
        if not much:
            assert torch.allclose(found, torch.cat([matrix, constant[None]]), atol=0.01)


def _shelves() -> data.Shelves:
    """Latents of 8 x 24 x 24 noise, as a new autoencoder might make them."""
    shelves = small_recipe.noise_shelves([data.draw_film(np.random.default_rng(n), switching=False) for n in range(4)])
    made = []
    for number, shelf in enumerate(shelves):
        torch.manual_seed(number)
        films = shelf.films[: 2 * data.ALIKE] if shelf.films[0].frames == data.PICTURE else shelf.films[:4]
        latents = torch.randn(len(films), films[0].frames, 8, 24, 24)
        made.append(data.Shelf(latents, films, data.outlines(films, 48), data.courses(films)))
    return made[0], made[1], made[2], made[3]


def test_a_token_says_the_same_of_the_same_picture_behind_both_autoencoders(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    shelves = _shelves()

    def half(shelf: data.Shelf, number: int, _: AutoencoderTAEHV) -> Tensor:
        return torch.nn.functional.avg_pool2d(shelf.latents[number], 2)[:, :5] + 0.5

    monkeypatch.setattr(align, "_encoded", half)
    monkeypatch.setattr(align, "REST", 0.0)
    old = dit.Denoiser(vocabulary(), channels=5, patch=2).transformer.patch_embedding
    new = dit.Denoiser(vocabulary(), channels=8, patch=4)
    with torch.no_grad():
        explained = align.read_alike(new, shelves, old, AutoencoderTAEHV(**small_recipe.SMALL_AE), 0)
        said = new.transformer.patch_embedding(shelves[0].latents[0].transpose(0, 1)[None])
        wanted = old(half(shelves[0], 0, AutoencoderTAEHV(**small_recipe.SMALL_AE)).transpose(0, 1)[None])
    assert explained > 0.999
    assert torch.allclose(said, wanted, atol=0.02)


def test_what_old_latents_do_not_hold_is_read_as_well_and_elsewhere(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves = _shelves()
    monkeypatch.setattr(align, "_encoded", lambda shelf, number, _: shelf.latents[number, :, :1, ::4, ::4])
    monkeypatch.setattr(dit, "TRANSFORMER", {**dit.TRANSFORMER, "num_attention_heads": 12})  # room for 128 numbers
    new = dit.Denoiser(vocabulary(), channels=8, patch=4)
    old = dit.Denoiser(vocabulary(), channels=1, patch=1).transformer.patch_embedding
    with torch.no_grad():
        align.read_alike(new, shelves, old, AutoencoderTAEHV(**small_recipe.SMALL_AE), 0)
    assert int(torch.linalg.matrix_rank(new.transformer.patch_embedding.weight.flatten(1))) == 8 * 16


def test_the_last_layer_is_fitted_to_the_flow_and_better_than_none(small: None) -> None:
    torch.manual_seed(2)
    model, shelves = dit.Denoiser(vocabulary(), channels=8, patch=4), _shelves()
    torch.nn.init.zeros_(model.transformer.proj_out.weight)
    torch.nn.init.zeros_(model.transformer.proj_out.bias)
    with torch.no_grad():
        first = align.write_best(model, shelves, 0, 1, batches=6)
        written = model.transformer.proj_out.weight.clone()
        again = align.write_best(model, shelves, 0, 1, batches=6)  # of what is there before nothing is asked
    assert 0.01 < first < 1
    assert again == pytest.approx(first, abs=1e-4)
    assert torch.allclose(model.transformer.proj_out.weight, written, atol=1e-4)


def test_a_patch_is_written_in_the_order_it_is_read_in(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shelves = _shelves()
    monkeypatch.setattr(dit, "TRANSFORMER", {**dit.TRANSFORMER, "num_attention_heads": 12})
    model = dit.Denoiser(vocabulary(), channels=8, patch=4)
    seen: dict[str, Tensor] = {}

    def through(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = seen["read"]  # the blocks' output is the noisy picture itself, patch by patch
        return torch.nn.functional.pad(hidden, (0, output.shape[-1] - hidden.shape[-1]))

    def read(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        frames = inputs[0].transpose(1, 2)
        seen["read"] = align._patches(frames.flatten(0, 1), 4).unflatten(0, (len(frames), -1))

    model.transformer.patch_embedding.register_forward_pre_hook(read)
    monkeypatch.setattr(model.transformer.norm_out, "forward", lambda x: through(model, (), x))
    monkeypatch.setattr(dit.Denoiser, "way", lambda self, batch, noisy, noise: noisy)
    with torch.no_grad():
        for parameter in (model.transformer.scale_shift_table, *model.transformer.condition_embedder.parameters()):
            parameter.zero_()
        explained = align.write_best(model, shelves, 0, 1, batches=4)
        shown = shelves[0].latents[:1, :3]
        assert explained > 0.99
        flow = model.transformer.forward_train(shown, torch.zeros(1, 3), model.text_encoder.encode(["a ball"]), chunk=3)
    assert torch.allclose(flow, shown, atol=0.1)


def test_a_run_behind_another_autoencoder_says_how_well_it_begins(tmp_path: Path, small: None) -> None:
    torch.manual_seed(3)
    shipped = dit.Denoiser(vocabulary(), channels=5, patch=2)
    before = AutoencoderTAEHV(**{**small_recipe.SMALL_AE, "latent_channels": 5, "patch_size": 8})
    for name, part in (("transformer", shipped.transformer), ("text_encoder", shipped.text_encoder)):
        part.save_pretrained(tmp_path / "model" / name)
    before.save_pretrained(tmp_path / "model" / "autoencoder")
    fake_data(tmp_path / "run")
    dit.train_dit(tmp_path / "run", start_from=tmp_path / "model", steps=1, log_every=1, batch_size=1)
    said = [json.loads(line) for line in (tmp_path / "run" / "dit.jsonl").read_text().splitlines()]
    assert 0 < said[0]["written"] < 1
    assert -0.1 < said[0]["read"] <= 1


def test_the_kept_weights_are_a_beginning_that_lacks_nothing() -> None:
    kept = Path(align.__file__).parent / "checkpoints"
    autoencoder = AutoencoderTAEHV.from_pretrained(kept / "autoencoder")
    side = world.SIZE // autoencoder.spatial_scale // dit.TOKENS
    model = dit.Denoiser(vocabulary(), channels=autoencoder.config["latent_channels"], patch=side)
    assert dit._start(model, kept) == []
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
