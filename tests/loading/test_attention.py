"""Attention kernels are chosen by name, computed with, written down, and refused where they cannot work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.errors import UsageMistake
from app.loading.attention import BACKENDS, use_attention
from app.loading.engine_request import EngineRequest
from app.loading.model import open_stream
from app.record import sidecar
from app.record.request import request_of
from benchmarks.speed import attention
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs
from pipelines.types import Controls
from tests.app_doubles import save_tiny_model
from tests.render.test_render import film_request, run
from tests.tiny import tiny_transformer


def test_a_film_is_computed_with_the_kernel_that_was_chosen(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    plain = EngineRequest(PRESETS["embedded"], model=str(folder), untrained=True, device="cpu")
    films: list[np.ndarray] = []
    for kernel in ("auto", "math"):
        opened = open_stream(replace(plain, attention=kernel), 3)
        blocks = opened.stream.engine.transformer.blocks  # type: ignore[attr-defined]
        named = {str(block.attn1.processor._attention_backend.value) for block in blocks}
        assert named == {BACKENDS.get(kernel, "native")}
        films.append(np.asarray(opened.stream.next_chunk(Controls("a red ball")).pixels, np.int16))
    assert np.abs(films[0] - films[1]).max() <= 1


def test_the_record_of_a_film_names_the_kernel(tmp_path: Path) -> None:
    request = film_request(tmp_path)
    assert run(replace(request, engine=replace(request.engine, attention="math")))[0] == 0
    record = sidecar.read(tmp_path / "out.json")
    assert record.config.attention == "math"
    again = request_of(record.config, seed=7, model="embedded", source="it", output=tmp_path / "again.mp4")
    assert again.engine.attention == "math"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (EngineRequest(PRESETS["embedded"], attention="sage"), "does not work here"),
        (EngineRequest(PRESETS["embedded"], attention="math", parallel="levels=2"), "of one device"),
        (
            EngineRequest(apply_knobs(PRESETS["longlive"], {"kv_cache_attention_bias": 0.5}), attention="flash"),
            "cannot weigh what is remembered, and kv_cache_attention_bias is 0.5",
        ),
    ],
    ids=["not installed", "ranks", "weights"],
)
def test_a_kernel_that_cannot_work_is_refused_in_a_sentence(request_: EngineRequest, told: str) -> None:
    with pytest.raises(UsageMistake, match=told):
        use_attention(tiny_transformer(num_layers=1), request_)


def test_the_benchmark_tells_which_kernels_work_how_fast_and_how_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.SHAPES, "embedded", (8, 2, 16))
    result = attention.measure("cpu", repeats=2)
    rows = {row["kernel"]: row for row in result["kernels"]}
    assert set(rows) == set(BACKENDS)
    assert result["fastest"] in ("native", "math")
    assert rows["native"]["ratio"] == 1
    for name in ("native", "math"):
        assert rows[name]["seconds"] > 0
        assert rows[name]["off"] < 1e-5
    for name in ("cudnn", "flash", "flash3", "sage", "xformers"):
        assert rows[name]["seconds"] is None
        assert rows[name]["why"].endswith(("is not installed", "needs a card"))
    assert attention.table(result).row_count == len(BACKENDS)
