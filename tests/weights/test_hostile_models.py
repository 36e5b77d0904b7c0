"""What the command line says to a model folder that somebody spoilt: one sentence, soon, without growing."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from app.cli.main import main
from tests.hostile import RELEASED_SPOILS, SPOILS, Spoil, save_sound

SECONDS, BYTES = 60, 400 * 2**20
"""No refusal may take longer or grow the process by more; most take a tenth of a second and nothing. The first is
wide, because machines are busy: what it is there to catch never ends."""

SAYS: dict[str, str] = {
    "transformer nan float32": r"transformer/\S*safetensors holds NaN or infinite numbers in scale_shift_table",
    "transformer -1e+38 float32": "holds NaN or infinite",
    "text_encoder -inf float16": r"text_encoder/\S*safetensors holds NaN or infinite",
    "eps NaN literal": r"transformer/config.json is not JSON \(NaN is no number",
    "eps -1e-06": r"transformer/config.json: eps should be greater",
    "autoencoder latents_std zero": r"autoencoder/config.json: latents_std.0 should be greater",
    "autoencoder latents_mean changed": r"disagree about latents_mean",
    "card spreads zero": r"card.json: drift_spreads.0 should be greater.*and 4 more",
    "transformer num_layers 1000000000": r"num_layers should be less than or equal to",
    "transformer num_layers 500": r"does not fit CausalWan.*lacks blocks.1",
    "transformer num_layers 2": r"num_layers should be a valid integer",
    "transformer ffn_dim 1048576": r"float32\[32, 24\] where float32\[1048576, 24\] belongs",
    "transformer text_len 4": r"makes 8 rows of text, its transformer reads 4",
    "transformer _class_name MochiTransformer3DModel": r"describes MochiTransformer3DModel",
    "transformer quantization_config {'quant_method': 'bitsandbyt": "quantised by bitsandbytes",
    "text_encoder num_heads 3": r"does not describe TextEncoder.*multiple of num_heads",
    "card.json pipe": "card.json is a named pipe",
    "card.json endless device": "card.json is a device",
    "text_encoder/vocabulary.json folder": "vocabulary.json is a folder",
    "transformer/config.json link to nowhere": "config.json is a link that leads nowhere",
    "text_encoder/vocabulary.json deep": "nested too deep",
    "card.json equal keys": "sets 'name' twice",
    "card.json byte-order mark": "byte-order mark, save it as UTF-8 without",
    "weights of a tebibyte": r"needs 1024\.0 GiB of memory for its weights in float32, and this machine has",
    "weights with line breaks in a name": r"unknown a\\nba\\nb",
    "ComfyUI pipeline": "a whole pipeline in one file",
    "scaled fp8 without its weight": "without the weight it scales",
    "GGUF": r"no complete GGUF file \(its version is 0",
    "GGUF beside": r"no complete GGUF file \(its version is 0",
    "Git LFS pointer": "a pointer of Git LFS",
    "nunchaku": "nunchaku.*bf16 or fp16",
    "bitsandbytes": "quantised by bitsandbytes.*bf16 or fp16",
    "GPTQ": "GPTQ or AWQ",
    "a LoRA": "a LoRA and no model",
}
"""What a sentence has to name."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models") / "small"
    save_sound(root)
    return root


@contextmanager
def soon() -> Iterator[None]:
    """Interrupt what never ends."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not refused within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def most_held() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def film(model: Path, out: Path) -> int:
    return main(["render", "a red fox", "--model", str(model), "-o", str(out), "--duration", "1s", "--device", "cpu"])


def test_the_sound_folder_films(sound: Path, tmp_path: Path) -> None:
    assert film(sound, tmp_path / "film.mp4") == 0
    assert (tmp_path / "film.mp4").stat().st_size > 1000


def test_there_are_many_ways_to_spoil_a_folder() -> None:
    assert len(SPOILS) > 200
    assert SAYS.keys() <= SPOILS.keys()


@pytest.mark.parametrize("how", SPOILS)
def test_a_spoilt_folder_is_one_sentence(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    told = refusal(sound, SPOILS[how], tmp_path, capsys)
    assert re.search(SAYS.get(how, re.escape(str(tmp_path / "small"))), told), told


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the released Wan models."""
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[text]'")
    pytest.importorskip("ftfy", reason="needs ftfy: pip install -e '.[text]'")
    from tests.loading.test_build import save_stock

    root = tmp_path_factory.mktemp("models") / "small"
    save_stock(root)
    return root


@pytest.mark.parametrize("how", RELEASED_SPOILS)
def test_a_spoilt_folder_in_the_layout_of_released_models_is_one_sentence(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    told = refusal(released, RELEASED_SPOILS[how], tmp_path, capsys)
    assert str(tmp_path / "small") in told


def refusal(sound: Path, spoil: Spoil, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said to a spoilt copy, after checking how, how soon, and that nothing was left behind or grew."""
    model = tmp_path / "small"
    shutil.copytree(sound, model)
    spoil(model)
    capsys.readouterr()
    began, held = time.monotonic(), most_held()
    with soon():
        code = film(model, tmp_path / "film.mp4")
    told = capsys.readouterr().err
    assert code == 2, told
    assert re.fullmatch(r"rivulet: [^\n]{20,1200}\n", told), told
    assert "Traceback" not in told
    assert "broke inside" not in told
    assert not list(tmp_path.glob("film*"))
    assert most_held() - held < BYTES
    assert time.monotonic() - began < SECONDS
    return told
