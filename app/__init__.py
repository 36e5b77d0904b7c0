"""The edge of Rivulet: command line, video files, sidecars.

Our packages are flat top-level imports (`cache`, `models`, ...), names that other projects use too, so the first
import checks that every one of them comes from this tree: a mixture would run and be wrong.
"""

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def require_own_packages(root: Path = _ROOT) -> None:
    """Refuse to start when a package of this tree would be imported from somewhere else.

    Raises:
        ImportError: names the package, the file that would be imported and what to do about it.
    """
    for name in ("cache", "models", "parallel", "pipelines", "schedulers", "weights"):
        own = root / name / "__init__.py"
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if own.is_file() and found != own:
            raise ImportError(
                f"`import {name}` finds {found or 'nothing'}, not {own}. Remove the other entry from PYTHONPATH, "
                "or run inside this project's own environment."
            )


require_own_packages()
