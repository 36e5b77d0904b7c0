"""The file of a benchmark's numbers: where it lies, what it holds already, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from app.atomic import write_text
from app.errors import UsageMistake

CHECKOUT = Path(__file__).resolve().parents[1]


def result_file(name: str, json_file: Path | None) -> Path | None:
    """Return where the numbers go: the file asked for; in a checkout benchmarks/results; elsewhere nowhere.

    Raises:
        UsageMistake: the file cannot be written; better known before minutes of measuring.
    """
    if json_file is None:
        results = CHECKOUT / "benchmarks" / "results"
        return results / f"{name}.json" if (CHECKOUT / ".git").exists() and results.is_dir() else None
    if "\0" in str(json_file):
        raise UsageMistake("The name for the numbers holds a NUL byte. Give an ordinary file name.")
    if json_file.is_dir():
        raise UsageMistake(f"{json_file} is a folder. Give a file name in it, for example {json_file / name}.json.")
    if not json_file.absolute().parent.is_dir():
        raise UsageMistake(f"There is no folder {json_file.parent}. Create it, or give another file.")
    json_file.open("a").close()
    return json_file


def read_numbers(file: Path | None) -> dict[str, Any] | None:
    """What a file of numbers holds; None for nothing.

    Raises:
        UsageMistake: it is not JSON.
    """
    if file is None or not file.is_file():
        return None
    text = file.read_text(encoding="utf-8").strip()
    try:
        found: object = json.loads(text or "{}")
    except json.JSONDecodeError:
        raise UsageMistake(f"{file} is not JSON, and the numbers are put to what it holds. Name another.") from None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def writer(file: Path | None, stamp: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What writes numbers and `stamp` into the file, whole or not at all; nothing without a file."""

    def write(numbers: dict[str, Any]) -> None:
        if file is not None:
            write_text(file, json.dumps(_plain(numbers | stamp), indent=2, ensure_ascii=False) + "\n")

    return write


def _plain(value: object) -> object:
    """JSON knows no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    return None if isinstance(value, float) and math.isnan(value) else value
