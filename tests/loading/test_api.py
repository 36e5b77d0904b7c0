"""The Python API as docs/api.md shows it, on a model of a few kilobytes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipelines
from pipelines import Controls, film, open_stream
from pipelines.api import UnknownWords
from pipelines.components import choose_device
from tests.app_doubles import save_tiny_model
from weights.catalog import MODELS
from weights.find import get_model

ROOT = Path(__file__).resolve().parents[2]
BALL, STAR = "a red ball bounces over the sea", "a blue star drifts over the snow"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def embedded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model under the embedded model's name."""
    monkeypatch.setitem(MODELS, "embedded", get_model(str(tiny)))


@pytest.mark.filterwarnings("ignore::pipelines.api.UnknownWords")  # the tiny model knows few of their words
def test_the_examples_of_the_page_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    assert len([line for line in blocks[0].splitlines() if line]) <= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(names["frames"]) == 6 * 16
    assert all(frame.shape == (32, 32, 3) and frame.dtype == np.uint8 for frame in names["frames"])
    assert (tmp_path / "film.gif").stat().st_size > 0
    assert (names["chunk"].pixel, names["later"].pixel) == (range(9), range(9, 21))


def test_a_film_is_as_long_as_asked_and_its_frames_are_the_streams() -> None:
    frames = film(BALL, seconds=0.75, seed=7)
    stream = open_stream(seed=7)
    chunks = [stream.next_chunk(Controls(BALL)).pixels for _ in range(2)]
    assert len(frames) == 12
    np.testing.assert_array_equal(frames, np.concatenate([chunk for chunk in chunks if chunk is not None])[:12])
    assert not np.array_equal(frames, film(BALL, seconds=0.75, seed=8))


def test_prompts_share_a_film_equally() -> None:
    asked: list[str] = []
    stream = open_stream()
    inner = stream.next_chunk

    def next_chunk(controls: Controls) -> Any:
        asked.append(str(controls.prompt))
        return inner(controls)

    stream.next_chunk = next_chunk  # type: ignore[method-assign]  # only to listen
    assert len(film(BALL, STAR, seconds=33 / 16, stream=stream)) == 33  # chunks at frames 0, 9, 21
    assert asked == [BALL, BALL, STAR]
    film(STAR, seconds=0.1, stream=stream)
    assert asked[3:] == [STAR]
    assert stream.state.chunk == 4  # it went on


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: film(), "needs a prompt"),
        (lambda: film(" "), "prompt is empty"),
        (lambda: film([BALL, STAR]), "film(*prompts)"),
        (lambda: film(BALL, seconds=0), "above 0"),
        (lambda: film(BALL, seconds=float("nan")), "above 0"),
        (lambda: open_stream("embeded"), "did you mean embedded"),
        (lambda: open_stream(device="gpu"), "choose auto, cpu, cuda or mps"),
        (lambda: open_stream(width=34), "makes 32x32, 48x32, not 34x32"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()


def test_the_package_offers_the_names_without_loading_torch() -> None:
    assert {"film", "open_stream", "Controls", "Transition"} <= set(dir(pipelines))
    with pytest.raises(AttributeError, match="no attribute 'films'"):
        _ = pipelines.films  # type: ignore[attr-defined]
    code = (
        "import sys, pipelines; from pipelines import Controls; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_text_in_the_place_of_controls_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r'stream\.next_chunk\(Controls\("a red ball"\)\)'):
        open_stream().next_chunk(BALL)  # type: ignore[arg-type]  # what people write first


def test_unknown_words_are_warned_of_when_their_prompt_begins_and_not_again() -> None:
    stream = open_stream()
    with pytest.warns(UnknownWords, match="does not know 'xyzzy'"):
        stream.next_chunk(Controls("a red xyzzy"))
    stream.next_chunk(Controls("a red xyzzy"))  # a warning is an error in these tests
    stream.next_chunk(Controls("a red ball"))


def test_an_apple_gpu_is_asked_for_by_name() -> None:
    if torch.backends.mps.is_available():
        assert choose_device("mps") == ("mps", torch.bfloat16)
    else:
        with pytest.raises(ValueError, match="finds no Apple GPU"):
            choose_device("mps")
    assert choose_device("auto")[0] != "mps", "until it has been seen on one"
