"""Kills a render where it hurts and resumes it: the film must be the one it would have been.

Every round is a process of its own that gets SIGKILL at a random moment, before its first frame or after its last; what
it leaves must play, and `--resume` must give the same chunks and the same decoded frames as an undisturbed render.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Threads
from benchmarks.benchmark import Benchmark, Run

if TYPE_CHECKING:
    from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a big red ball bounces over the sea", "a blue star drifts to the right over the snow")


def measure(
    *,
    kills: int = 20,
    seconds: int = 12,
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Kill and resume `kills` times.

    Args:
        kills: rounds.
        seconds: of film.
        threads: of torch in every process; None = all cores.
        seed: of the moments.
        report: told after each round.

    Returns:
        "rounds": for each, "killed_after" (seconds), "frames_left" (what plays of the part), "frames_noted" (what the
        journal names), "same" (hashes and decoded frames); "render_seconds" of the undisturbed film; "passed".
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        begun = time.monotonic()
        _finish(_command(whole, seconds, threads))
        lasted = time.monotonic() - begun
        expected = _film(whole)
        moments = random.Random(seed)
        rounds: list[dict[str, Any]] = []
        for number in range(kills):
            film = Path(folder) / f"film-{number}"
            after = moments.uniform(0.2, 1.0) * lasted  # the first fifth is the program's start: nothing to lose there
            process = subprocess.Popen(
                _command(film, seconds, threads), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.send_signal(signal.SIGKILL)
            process.wait()
            left, noted = _left(film), _noted(film)
            _finish([*_command(film, seconds, threads), "--resume"])
            rounds.append(
                {
                    "killed_after": round(after, 2),
                    "frames_left": left,
                    "frames_noted": noted,
                    "plays": left >= noted - 1,
                    "same": _film(film) == expected,
                }
            )
            report(f"kill {number + 1} of {kills}: {rounds[-1]}")
    return {
        "kills": kills,
        "film_seconds": seconds,
        "render_seconds": round(lasted, 2),
        "rounds": rounds,
        "passed": all(each["same"] and each["plays"] for each in rounds),
    }


def table(result: dict[str, Any]) -> Table:
    """Show the rounds."""
    from rich.table import Table

    shown = Table(title=f"{result['kills']} kills of a film of {result['film_seconds']} s")
    for name in ("killed after", "frames noted", "frames that play", "same film"):
        shown.add_column(name, justify="right")
    for each in result["rounds"]:
        shown.add_row(
            f"{each['killed_after']} s",
            str(each["frames_noted"]),
            str(each["frames_left"]),
            "yes" if each["same"] and each["plays"] else "NO",
        )
    return shown


def _command(folder: Path, seconds: int, threads: int | None) -> list[str]:
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-W", "ignore", "-m", "app", "render", *PROMPTS, "-o", str(folder / "out.mp4")]
    words += ["--duration", f"{seconds}s", "--seed", "7", "--segment_chunks", "4"]
    return words + ([] if threads is None else ["--threads", str(threads)])


def _finish(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")


def _film(folder: Path) -> tuple[list[str], str]:
    """Chunk hashes and a hash over all decoded frames."""
    import av

    chunks = json.loads((folder / "out.json").read_text("utf-8"))["chunks"]
    digest = hashlib.sha256()
    with av.open(str(folder / "out.mp4")) as film:
        for frame in film.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
    return [chunk["sha256"] for chunk in chunks], digest.hexdigest()


def _left(folder: Path) -> int:
    """Frames that play of whatever is there."""
    import av
    from av.error import FFmpegError

    path = next((folder / name for name in ("out.part.mp4", "out.mp4") if (folder / name).is_file()), None)
    count = 0
    if path is not None:
        with suppress(FFmpegError), av.open(str(path)) as film:  # a file without its first frame does not open
            for _ in film.decode(video=0):
                count += 1
    return count


def _noted(folder: Path) -> int:
    journal = folder / "out.part" / "journal.jsonl"
    if not journal.is_file():
        return 0
    lines = journal.read_text("utf-8").split("\n")[:-1]
    return sum(json.loads(line)["chunk"]["shown"] for line in lines if line.startswith('{"chunk"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Benchmark):
    """Kills renders at random moments and resumes them: it must be the same film."""

    threads: Threads = None
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=10**6, help="Kills.")] = 20
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(kills=self.repeats, threads=self.threads, report=run.report)
