"""The notebook's cells run from top to bottom."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "contrib" / "notebook" / "stream.ipynb"


def test_its_cells_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    class Place:
        def update(self, picture: bytes) -> None:
            shown.append(picture)

    def display(picture: bytes, *, display_id: bool) -> Place:
        assert display_id
        shown.append(picture)
        return Place()

    module: Any = ModuleType("IPython.display")
    module.display, module.Image = display, lambda data, format: data
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        assert not cell.get("outputs"), "it is kept without what it showed"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("range(4)", "range(1)").replace("range(5)", "range(1)"), names)
    assert len(shown) == 3
    assert all(picture.startswith(b"GIF8") for picture in shown)
