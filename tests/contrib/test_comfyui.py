"""The folder for ComfyUI: it is imported as ComfyUI does it, and its nodes do what their definitions say."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipelines.types import TransitionKind

FOLDER = Path(__file__).parents[2] / "contrib" / "comfyui" / "rivulet"
OWN = {"INT": int, "FLOAT": float, "STRING": str}


@pytest.fixture(scope="module")
def nodes() -> Iterator[ModuleType]:
    """As a custom node's folder, by its path and under its name there."""
    spec = importlib.util.spec_from_file_location("custom_nodes.rivulet", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_nodes.rivulet"] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith("custom_nodes")]:
        del sys.modules[name]


def test_definitions_are_those_that_comfyui_reads(nodes: ModuleType) -> None:
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    made = {"STRING", "INT", "FLOAT", "IMAGE"}
    for kind in nodes.NODE_CLASS_MAPPINGS.values():
        made |= {*kind.RETURN_TYPES}
    for kind in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = {name: each for group in kind.INPUT_TYPES().values() for name, each in group.items()}
        assert set(kind.INPUT_TYPES()) <= {"required", "optional"}
        assert list(inspect.signature(getattr(kind, kind.FUNCTION)).parameters) == ["self", *inputs]
        assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
        for of_kind, *options in inputs.values():
            assert isinstance(of_kind, list) or of_kind in made, "nothing makes this"
            if options and isinstance(of_kind, str):
                default = options[0]["default"]
                assert isinstance(default, OWN[of_kind])
                assert options[0].get("min", default) <= default <= options[0].get("max", default)
            elif options:
                assert options[0]["default"] in of_kind


def test_every_transition_of_the_engine_is_offered(nodes: ModuleType) -> None:
    from typing import get_args

    offered = nodes.NODE_CLASS_MAPPINGS["RivuletGoOn"].INPUT_TYPES()["required"]["transition"][0]
    assert set(offered) == set(get_args(TransitionKind))


def test_a_film_goes_on_under_other_words_and_what_was_returned_stays(nodes: ModuleType) -> None:
    def node(name: str) -> Any:
        kind = nodes.NODE_CLASS_MAPPINGS[name]
        return getattr(kind(), kind.FUNCTION)

    (engine,) = node("RivuletLoadEngine")("embedded", "cpu")
    frames, film, fps = node("RivuletBeginFilm")(engine, "a big red ball", 0.5, 7)
    assert (frames.dtype, frames.shape[1:], fps) == (torch.float32, (192, 192, 3), 16.0)
    assert len(frames) >= 8
    assert 0.0 <= float(frames.min()) < float(frames.max()) <= 1.0

    def on(prompt: str, transition: str) -> torch.Tensor:
        return node("RivuletGoOn")(film, prompt, 0.1, transition, 2)[0]

    same = on("a big red ball", "recache")
    other = on("a big blue star", "cut")
    assert torch.equal(on("a big red ball", "recache"), same), "an earlier film was changed"
    assert not torch.equal(same, other)
