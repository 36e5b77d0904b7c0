"""Replays recorded runs of the original systems: `make golden`, or `python -m tests.golden_replay [names...]`.

`--json FILE` writes the results down; docs/presets.md is made from them.

The folder is RIVULET_GOLDEN, by default tests/golden. Everything a replay needs stands in the trace's
sidecar, so that recordings made later, of other sizes and settings, run unchanged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests import golden_anchor, golden_deep, golden_models, golden_rolling, golden_rollout, golden_sched, golden_sdv2
from tests.golden_trace import Ledger, NotSupportedError, Trace, TraceError

HERE = Path(__file__).parent / "golden"

Status = Literal["ok", "FAIL", "not supported"]
Replay = Callable[[Trace, Ledger], None]

FAMILIES: dict[str, Replay] = {
    "sched": golden_sched.replay,
    "wan": golden_models.replay_wan,
    "train": golden_models.replay_training,
    "taehv": golden_models.replay_taehv,
    "sf": golden_rollout.replay,
    "ll": golden_rollout.replay,
    "sd": golden_sdv2.replay,
    "df": golden_deep.replay,
    "rf": golden_rolling.replay,
    "af": golden_anchor.replay,
}


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. `error` is the largest absolute difference, `what` the tensor it was in."""

    name: str
    status: Status
    error: float
    what: str
    remarks: str = ""
    tensors: int = 0
    source: str = ""

    def as_json(self) -> dict[str, Any]:
        """The line as data; no error where there was none to measure (JSON knows no NaN)."""
        measured = self.status != "not supported" and math.isfinite(self.error)
        return {
            "name": self.name,
            "source": self.source,
            "status": self.status,
            "error": self.error if measured else None,
            "what": self.what,
            "tensors": self.tensors,
            "remarks": self.remarks,
        }

    def __str__(self) -> str:
        error = "-" if self.status == "not supported" else f"{self.error:.1e}"
        return f"{self.name:<28} {self.status:<13} {error:>8}  {self.what}  {self.remarks}".rstrip()


def folder() -> Path:
    """Where the traces are."""
    return Path(os.environ.get("RIVULET_GOLDEN") or HERE)


def family(sidecar: dict[str, Any]) -> str:
    """Which kind of recording this is; the sidecar says so in one of two ways."""
    scenario = sidecar.get("scenario")
    system = scenario.get("sys") if isinstance(scenario, dict) else sidecar.get("system")
    return str(system)


def replay_file(sidecar_path: Path) -> Result:
    """Replay one trace. Nothing escapes: what goes wrong is the result's remark."""
    name = sidecar_path.stem
    try:
        trace = Trace.open(sidecar_path)
    except TraceError as error:
        return Result(name, "FAIL", float("nan"), "-", str(error))
    kind = family(trace.sidecar)
    if kind not in FAMILIES:
        system = trace.sidecar.get("system", "no system named")
        return Result(name, "not supported", 0.0, "-", f"family {kind!r} ({system})")
    ledger = Ledger(trace)
    try:
        FAMILIES[kind](trace, ledger)
        ledger.close_books()
    except NotSupportedError as error:
        return Result(name, "not supported", 0.0, "-", str(error))
    except Exception as error:  # one broken replay must not hide the others
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        ledger.faults.insert(0, f"{type(error).__name__}: {error} ({where})")
    remarks = [f"{len(ledger.compared)} tensors", *ledger.notes]
    if ledger.faults:
        more = len(ledger.faults) - 1
        remarks = [ledger.faults[0] + (f" and {more} more" if more else ""), *ledger.notes]
    status: Status = "FAIL" if ledger.faults else "ok"
    source = f"{trace.sidecar.get('system', '')} {str(trace.sidecar.get('commit', ''))[:7]}".strip()
    return Result(name, status, ledger.worst, ledger.worst_name, "; ".join(remarks), len(ledger.compared), source)


def find(where: Path, names: Sequence[str] = ()) -> list[Path]:
    """Sidecars in `where`, sorted; ValueError if a name is not there or there are none."""
    found = {path.stem: path for path in sorted(where.glob("*.json"))}
    strangers = [name for name in names if name not in found]
    if strangers or not found:
        raise ValueError(f"no trace {strangers or ''} in {where}; it has: {', '.join(found) or 'none'}")
    return [path for stem, path in found.items() if not names or stem in names]


def main(arguments: Sequence[str]) -> int:
    """Print one line a trace and the totals; 1 if any trace failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden_replay", description="Replay recorded runs.")
    parser.add_argument("names", nargs="*", help="traces; all of the folder's without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go as well")
    asked = parser.parse_args(arguments)
    try:
        paths = find(folder(), asked.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    results: list[Result] = []
    for path in paths:
        results.append(replay_file(path))
        print(results[-1], flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps([result.as_json() for result in results], indent=2) + "\n", encoding="utf-8")
    counts = {status: sum(r.status == status for r in results) for status in ("ok", "FAIL", "not supported")}
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['not supported']} not supported")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
