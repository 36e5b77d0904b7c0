"""The order of things: presets, the streaming loop and what it remembers.

Add a preset: one file in pipelines/presets with a frozen dataclass literal, one line in its registry. For notebooks,
`from pipelines import film` (docs/api.md); the names below are imported when they are used, so that a preset can be
looked up without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.api import film as film
    from pipelines.api import open_stream as open_stream
    from pipelines.types import Controls as Controls
    from pipelines.types import Transition as Transition

_HOMES = {
    "Controls": "pipelines.types",
    "Transition": "pipelines.types",
    "film": "pipelines.api",
    "open_stream": "pipelines.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
