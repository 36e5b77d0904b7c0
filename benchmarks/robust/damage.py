"""Damages what a render leaves on the disk and asks for the film: it must be the film, or a sentence says why not.

A film is rendered, killed, or asked to end half-way; then one file of it is damaged as disks, tools and people do, and
`rivulet render --resume` or `rivulet replay --check` is run on what is there. The commands run in a process of their
own, one for all rounds, so that the model is imported once.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import ModelName, Threads
from benchmarks.benchmark import Benchmark, Run
from benchmarks.robust.mutation import is_told_well

if TYPE_CHECKING:
    from rich.table import Table

PROMPTS = ("a big red ball bounces over the sea", "a blue star drifts to the right over the snow")
OTHERS = ("a yellow heart at night", "a green ring over the meadow")
FILM = "film.mp4"
FRAMES, SEGMENT, STOPPED_AT = 69, 2, 5
"""Of the film; 6 chunks in the embedded model's rhythm, stopped before the last, in its third segment."""
PATIENCE = 10.0
"""Seconds that a command may take beyond what the film's own render took."""
_START = 300.0
"""Seconds within which the process must have imported everything and made a film, on a loaded machine too."""
_FILES = {
    "film": "film.mp4",
    "tags": "film.mp4",
    "record": "film.json",
    "growing film": "film.part.mp4",
    "journal": "film.part/journal.jsonl",
    "snapshot": "film.part/*.safetensors",
}
_KINDS: tuple[tuple[str, str, str], ...] = (
    ("killed", "growing film", "resume"),
    ("killed", "journal", "resume"),
    ("killed", "snapshot", "resume"),
    ("ended", "growing film", "resume"),
    ("ended", "journal", "resume"),
    ("ended", "record", "resume"),
    ("ended", "film", "resume"),
    ("whole", "film", "resume"),
    ("whole", "record", "resume"),
    ("whole", "film", "replay"),
    ("whole", "tags", "replay"),
    ("whole", "record", "replay"),
    ("whole", "film", "replay"),
)
"""How the render ended, what of it is damaged, and what is asked for then. Their number and that of the damages have no
common divisor, so that the rounds come to every pair."""
_DAMAGES = ("flip", "zero", "cut", "cut out", "append", "exchange")


@dataclass(frozen=True, slots=True)
class _Told:
    """How a command ended: its exit code (None: it did not end in time) and its last words."""

    code: int | None
    said: str
    seconds: float


class _Hands:
    """The process that runs the commands; begun anew when it was killed or hangs."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None

    def run(self, words: Sequence[str], *, limit: float = _START, stop: tuple[int, int] | None = None) -> _Told:
        """Run a command of `rivulet`; `stop` is a chunk and the signal to send to itself when it is noted."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("forkserver")  # which imports the model once for all of them
            context.set_forkserver_preload(["app.cli.main", "app.render.batch", "pipelines.build"])
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            limit += _START
        assert self._pipe is not None
        begun = time.monotonic()
        with suppress(EOFError, OSError):  # it was killed, as it was told to
            self._pipe.send((list(words), stop))
            if self._pipe.poll(limit):
                code, said = self._pipe.recv()
                return _Told(code, said, time.monotonic() - begun)
        self.close()
        return _Told(None, "", time.monotonic() - begun)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None


def measure(
    *,
    count: int = 200,
    model: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Damage and ask `count` times.

    Args:
        count: rounds, dealt evenly to the files and kinds of damage.
        model: None = the preset's.
        threads: of torch; None = all cores.
        seed: of the damages; the same seed makes the same ones.
        report: told after every 20th round, and of each that went wrong.

    Returns:
        "rounds": for each, "ended" (how the render had: killed, ended, whole), "file", "damage", "asked" (resume, or
        replay), "exit", "seconds", "said" (a refusal) and "outcome": "the film", "refused", "wrong film", "broke" (no
        sentence, or nothing a person could use), "lost" (a file that was there is gone) or "hung". "outcomes" counts
        them, "render_seconds" is the film's own time, and "passed" means that there was nothing but films and refusals.
    """
    hands = _Hands()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for film, prompts in (("ours", PROMPTS), ("other", OTHERS)):
                for ended, stop in (
                    ("whole", None),
                    ("ended", (STOPPED_AT, signal.SIGTERM)),
                    ("killed", (STOPPED_AT, signal.SIGKILL)),
                ):
                    (folder / film / ended).mkdir(parents=True)
                    words = _render(folder / film / ended, prompts, model, threads)
                    told = hands.run(words, stop=stop)
                    expected = {"whole": 0, "ended": 128 + signal.SIGTERM, "killed": None}[ended]
                    if told.code != expected:
                        raise RuntimeError(f"{' '.join(words)} ended with {told.code}: {told.said}")
            (folder / "again").mkdir()
            own = hands.run(_render(folder / "again", PROMPTS, model, threads), limit=2 * _START).seconds
            own = hands.run([*_render(folder / "again", PROMPTS, model, threads), "--overwrite"]).seconds
            judge = _Judge(folder / "ours" / "whole")
            rounds: list[dict[str, Any]] = []
            for number in range(count):
                ended, file, asked = _KINDS[number % len(_KINDS)]
                damage = _DAMAGES[number % len(_DAMAGES)]
                chance = rng.getstate()
                here = _damaged(folder, ended, file, damage, rng)
                before, words = _sizes(here), _asking(here, asked, rng, model, threads)
                told = hands.run(words, limit=own + PATIENCE)
                if told.code is None:  # a machine with other things to do is late once, a command that hangs is twice
                    rng.setstate(chance)
                    _damaged(folder, ended, file, damage, rng)
                    told = hands.run(words, limit=own + PATIENCE)
                outcome = judge(here, asked, told, before)
                rounds.append(
                    {"ended": ended, "file": file, "damage": damage, "asked": asked, "outcome": outcome}
                    | {"exit": told.code, "seconds": round(told.seconds, 2)}
                    | {"said": told.said.replace(str(here), "").strip() if told.code else ""}
                )
                if outcome not in ("the film", "refused"):
                    report(f"round {number + 1}: {rounds[-1]}")
                elif (number + 1) % 20 == 0:
                    report(f"{number + 1} of {count} damages: {dict(Counter(each['outcome'] for each in rounds))}")
        finally:
            hands.close()
    outcomes = Counter(each["outcome"] for each in rounds)
    return {
        "benchmark": "damage",
        "count": count,
        "seed": seed,
        "film_frames": FRAMES,
        "render_seconds": round(own, 2),
        "outcomes": dict(outcomes),
        "rounds": rounds,
        "passed": outcomes.keys() <= {"the film", "refused"},
    }


def table(result: dict[str, Any]) -> Table:
    """A row a file: how often which outcome."""
    from rich.table import Table

    shown = Table(title=f"{result['count']} damages of a film of {result['film_frames']} frames")
    names = ("the film", "refused", "wrong film", "broke", "lost", "hung")
    for name in ("render had", "damaged", "asked", *names):
        shown.add_column(name, justify="right" if name in names else "left")
    for kind in dict.fromkeys(_KINDS):
        found = Counter(
            each["outcome"] for each in result["rounds"] if (each["ended"], each["file"], each["asked"]) == kind
        )
        shown.add_row(*kind, *(str(found[name]) for name in names))
    return shown


def _render(folder: Path, prompts: Sequence[str], model: str | None, threads: int | None) -> list[str]:
    words = ["render", *prompts, "-o", str(folder / FILM), "--duration", f"{FRAMES}f", "--seed", "7", "--scale", "1"]
    words += ["--segment_chunks", str(SEGMENT), "--num_inference_steps", "1"]
    words += [] if model is None else ["--model", model]
    return words + ([] if threads is None else ["--threads", str(threads)])


def _asking(here: Path, asked: str, rng: random.Random, model: str | None, threads: int | None) -> list[str]:
    if asked == "replay":
        return ["replay", str(here / FILM), "--check", "-o", str(here / "again.mp4")]
    if rng.random() < 0.5:  # with its prompts, or as the journal knows them
        return [*_render(here, PROMPTS, model, threads), "--resume"]
    return ["render", "--resume", "-o", str(here / FILM)]


def _work(pipe: Connection) -> None:
    """Run what comes down the pipe and tell how it ended."""
    from app.record.journal import Journal

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # a signal's sentence goes past sys.stderr
    honest = Journal.chunk
    while True:
        with suppress(EOFError):
            words, stop = pipe.recv()
            if stop is None:
                Journal.chunk = honest
            else:
                chunk, number = stop

                def note(self: Journal, record: Any, chunk: int = chunk, number: int = number) -> None:
                    honest(self, record)
                    if record.index + 1 == chunk:
                        os.kill(os.getpid(), number)

                Journal.chunk = note
            said = io.StringIO()
            with redirect_stdout(io.StringIO()), redirect_stderr(said):
                code = _rivulet(words)
            pipe.send((code, said.getvalue()))
            continue
        return


def _rivulet(words: list[str]) -> int:
    """Run `rivulet` in this process, which has its modules already; returns its exit status."""
    sys.argv = ["rivulet", *words]
    try:
        runpy.run_module("app", run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


class _Judge:
    """Holds what came of a damage against the film that nobody disturbed."""

    def __init__(self, whole: Path) -> None:
        self._bytes = (whole / FILM).read_bytes()
        self._pictures = _pictures(whole / FILM)

    def __call__(self, here: Path, asked: str, told: _Told, before: dict[str, int]) -> str:
        if told.code is None:
            return "hung"
        if told.code:
            after = _sizes(here)
            if any(after.get(name, -1) < size for name, size in before.items()):
                return "lost"
            words = told.said.strip().removeprefix("rivulet: ")
            # A film that differs is told of on stdout, beside what a replay always prints there.
            good = not words if asked == "replay" and told.code == 1 else False
            good = good or (is_told_well(words) and "broke" not in words and told.code in (1, 2))
            return "refused" if good else "broke"
        if asked == "resume":
            return "the film" if (here / FILM).read_bytes() == self._bytes else "wrong film"
        films = [path for name in (FILM, "again.mp4") if (path := here / name).exists()]
        return "the film" if all(_pictures(path) == self._pictures for path in films) else "wrong film"


def _pictures(film: Path) -> list[int]:
    """A hash a decoded frame, up to the first that does not decode."""
    import av
    from av.error import FFmpegError

    hashes: list[int] = []
    with suppress(FFmpegError, IndexError, OSError), av.open(str(film)) as container:
        for frame in container.decode(video=0):
            hashes.append(hash(frame.to_ndarray().tobytes()))
    return hashes


def _sizes(folder: Path) -> dict[str, int]:
    """What a person would miss; locks and half-written files are nobody's."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".mp4", ".json", ".jsonl")]
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _damaged(folder: Path, ended: str, file: str, damage: str, rng: random.Random) -> Path:
    """A copy of what the render left, with one file of it damaged."""
    here, other = folder / "here", folder / "other" / ended
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(folder / "ours" / ended, here)
    if file == "tags":
        _damage_tags(here / FILM, other / FILM, damage, rng)
        return here
    path = rng.choice(sorted(here.glob(_FILES[file])))
    data = path.read_bytes()
    if damage == "exchange":
        shutil.copy(other / path.relative_to(here), path)
    else:
        path.write_bytes(_changed(data, damage, rng, 0, len(data)))
    return here


def _damage_tags(film: Path, other: Path, damage: str, rng: random.Random) -> None:
    """Damage the texts that a film carries, or carry another film's."""
    from app.media.join import join, read_metadata

    if damage == "exchange":
        joined = film.with_name("joined.mp4")
        join([film], joined, metadata=read_metadata(other))
        joined.replace(film)
        return
    data = film.read_bytes()
    begin = data.index(b'{"format"')
    film.write_bytes(_changed(data, damage, rng, begin, begin + data[begin:].index(b"\0")))


def _changed(data: bytes, damage: str, rng: random.Random, begin: int, end: int) -> bytes:
    at = rng.randrange(begin, max(end, begin + 1)) if data else 0
    length = rng.randint(1, 2000)
    match damage:
        case "flip" if data:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case "zero":
            return data[:at] + b"\0" * len(data[at : min(end, at + length)]) + data[min(end, at + length) :]
        case "cut":
            return data[:at]
        case "cut out":
            return data[:at] + data[min(end, at + length) :]
        case _:
            return data + rng.randbytes(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedFilms(Benchmark):
    """Damages what a render leaves and asks for the film: it must be the film, or a sentence says why not."""

    model: ModelName = None
    threads: Threads = None
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=10**6, help="Damages.")] = 200
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(count=self.repeats, model=self.model, threads=self.threads, report=run.report)
