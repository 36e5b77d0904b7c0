"""Snapshots as files: what comes back is the stream, bit for bit, and nothing damaged is taken for one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.snapshots import FORMAT, load_snapshot, save_snapshot
from pipelines.types import Controls, Transition
from tests.tiny import film, tiny_autoencoder, tiny_engine, tiny_stream

FOX, WOLF = Controls("a fox"), Controls("a wolf")
MIX = Controls((("a fox", 0.7), ("a wolf", 0.3)), Transition("soft", 3))


@pytest.mark.parametrize("start", [0, 1, 4, 6, 9])
def test_a_stream_goes_on_from_a_file_bit_for_bit(tmp_path: Path, start: int) -> None:
    engine = tiny_engine()
    script = [FOX] * 3 + [WOLF] * 2 + [MIX] * 5 + [FOX] * 2  # at 6 it stands in the middle of a blend
    stream = tiny_stream(engine, seed=9)
    before = film(stream, script[:start])
    sha256 = save_snapshot(stream.snapshot(), tmp_path / "state.safetensors")
    after = film(stream, script[start:])
    again = tiny_stream(engine, seed=77)
    again.restore(load_snapshot(tmp_path / "state.safetensors", sha256=sha256))
    assert film(again, script[start:]) == after
    assert film(tiny_stream(engine, seed=9), script) == before + after
    assert film(tiny_stream(engine, seed=77), script[start:]) != after, "the snapshot does nothing"
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_decoder_and_drift_come_back_too(tmp_path: Path) -> None:
    engine = tiny_engine(autoencoder=tiny_autoencoder())
    stream = tiny_stream(engine, seed=3)
    film(stream, [FOX] * 4, decode=True)
    save_snapshot(stream.snapshot(), tmp_path / "state.safetensors")
    after = film(stream, [WOLF] * 3, decode=True)
    again = tiny_stream(engine, seed=1)
    again.restore(load_snapshot(tmp_path / "state.safetensors"))
    assert film(again, [WOLF] * 3, decode=True) == after


def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    stream = tiny_stream(tiny_engine(), seed=9)
    film(stream, [FOX] * 2)
    path = tmp_path / "state.safetensors"
    sha256 = save_snapshot(stream.snapshot(), path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            load_snapshot(path)
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="checksum"):
        load_snapshot(path, sha256=sha256)
    save_file({"latents": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no snapshot of this version"):
        load_snapshot(path)
    header = f'{{"format": {FORMAT}, "text": {{"prompt": ""}}}}'
    save_file({"latents": torch.zeros(1)}, path, metadata={"rivulet": header})
    with pytest.raises(ValueError, match="lacks"):
        load_snapshot(path)


def test_a_full_disk_keeps_the_snapshot_before(tmp_path: Path) -> None:
    stream = tiny_stream(tiny_engine(), seed=9)
    film(stream, [FOX])
    path = tmp_path / "state.safetensors"
    sha256 = save_snapshot(stream.snapshot(), path)
    film(stream, [FOX])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_snapshot(stream.snapshot(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    load_snapshot(path, sha256=sha256)
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]
