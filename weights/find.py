"""A model by its name in the catalogue, or by its place on this disk."""

from difflib import get_close_matches
from pathlib import Path

from weights.catalog import MODELS, ModelSpec
from weights.local import local_model


def get_model(name: str) -> ModelSpec:
    """The model of that name, or the one in that local file or folder (weights/local.py).

    Raises:
        ValueError: no such name, and no file or folder with a transformer in it; the text lists the choices.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name).expanduser()
    if path.exists():
        return local_model(path)
    near = get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"No model {name!r} and no file or folder of that name with a transformer in it: choose from "
        f"{', '.join(MODELS)}{hint}"
    )
