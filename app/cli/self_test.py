"""Two chunks of one fixed film, compared with what they were: the quickest proof that an installation works.

The same CPU type, torch and weights give the same bits, so hashes are compared there; anywhere else arithmetic rounds
differently and a few small pictures say how far apart the films are.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import UsageMistake
from pipelines.presets.embedded import EMBEDDED
from pipelines.types import Controls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPT, SEED, CHUNKS = "a big red ball bounces over the sea", 7, 2
PICTURES = (0, 10, 20)
"""The frames that are kept as pictures: the film's first, one of the middle, its last."""
TOLERANCE = 8
"""Largest difference of a colour value (0 to 255) that another CPU or torch may make; a broken kernel makes 100."""
RECORD = "rivulet doctor --record"
PACKAGE = Path(__file__).resolve().parent

Verdict = Literal["same", "close", "wrong", "unknown"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hashes(_Record):
    """What one kind of machine made: `chunks` are the chunks' sha256, `model` is the checksum of the weights."""

    cpu: str
    torch: str
    model: str
    chunks: tuple[str, ...]


class Book(_Record):
    """doctor_hashes.json: the film, the weights that the pictures were made with, and the machines' hashes."""

    prompt: str
    seed: int
    model: str
    pictures: tuple[int, ...]
    records: tuple[Hashes, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The film of the self-test: frames uint8 [T, H, W, 3], and what decides them."""

    hashes: Hashes
    frames: "NDArray[np.uint8]"
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """same: bit for bit; close: within the tolerance; unknown: nothing was recorded to compare with."""

    verdict: Verdict
    text: str
    largest: int | None = None


def render(model: str | None = None) -> Rendered:
    """Make the film on the CPU with one thread, with the embedded model unless another is named."""
    import numpy as np
    import torch

    from app.loading.engine_request import EngineRequest
    from app.loading.model import open_stream

    threads = torch.get_num_threads()
    start = perf_counter()
    try:
        opened = open_stream(EngineRequest(preset=EMBEDDED, model=model, device="cpu", threads=1), SEED)
        chunks = [opened.stream.next_chunk(Controls(PROMPT)) for _ in range(CHUNKS)]
    finally:
        torch.set_num_threads(threads)
    frames = np.concatenate([chunk.pixels for chunk in chunks if chunk.pixels is not None])
    hashes = Hashes(
        cpu=cpu_type(),
        torch=torch.__version__,
        model=opened.checksum,
        chunks=tuple(chunk.sha256 for chunk in chunks),
    )
    return Rendered(hashes, frames, perf_counter() - start)


def cpu_type() -> str:
    """Name the processor as far as it decides bits: which one, and which vector instructions torch uses on it."""
    import torch

    from app.record.sidecar import machine

    parts = [str(machine()["cpu"])]
    info = Path("/proc/cpuinfo")
    if info.is_file():  # a virtual machine may hide the name, not the family
        text = info.read_text(encoding="utf-8", errors="replace")
        for key in ("cpu family", "model"):
            if found := re.search(rf"^{key}\s*:\s*(\d+)\s*$", text, re.MULTILINE):
                parts.append(f"{key.removeprefix('cpu ')} {found[1]}")
    return ", ".join([*parts, str(torch.backends.cpu.get_cpu_capability())])


def compare(rendered: Rendered, folder: Path = PACKAGE) -> Comparison:
    """Hold the film against what `folder` has on record.

    Raises:
        UsageMistake: the record is damaged.
    """
    import numpy as np

    mine = rendered.hashes
    if np.ptp(rendered.frames) < TOLERANCE:
        return Comparison("wrong", "the film is a single colour")
    book = read(folder)
    if book is None or (book.prompt, book.seed, book.pictures) != (PROMPT, SEED, PICTURES):
        return Comparison("unknown", "it renders, but nothing is on record to compare it with")
    if book.model != mine.model:
        return Comparison("unknown", f"it renders; the record was made for other weights ({book.model[:12]})")
    largest = _largest_difference(rendered.frames, folder)
    for known in book.records:
        if (known.cpu, known.torch, known.model) != (mine.cpu, mine.torch, mine.model):
            continue
        if known.chunks == mine.chunks:
            return Comparison("same", f"{len(mine.chunks)} chunks, bit for bit as recorded for this CPU and torch", 0)
        return Comparison(
            "wrong",
            "hashes differ from those recorded for this very CPU type, torch and weights; "
            f"pixels by up to {largest} of 255",
            largest,
        )
    text = f"no hashes for this CPU and torch; pixels differ by up to {largest} of 255, tolerance {TOLERANCE}"
    return Comparison("close" if largest <= TOLERANCE else "wrong", text, largest)


def record(rendered: Rendered, folder: Path = PACKAGE) -> tuple[Path, Path]:
    """Make the film the reference: pictures, and hashes beside those that other machines made with these weights."""
    import numpy as np
    from PIL import Image

    book = None
    with suppress(UsageMistake):  # damaged: this replaces it
        book = read(folder)
    mine = rendered.hashes
    old = book.records if book is not None and (book.prompt, book.seed) == (PROMPT, SEED) else ()
    kept = [one for one in old if one.model == mine.model and (one.cpu, one.torch) != (mine.cpu, mine.torch)]
    new = Book(prompt=PROMPT, seed=SEED, model=mine.model, pictures=PICTURES, records=(*kept, mine))
    strip = Image.fromarray(np.concatenate(rendered.frames[list(PICTURES)], axis=1))
    _write(pictures_path(folder), lambda path: strip.save(path, format="PNG", optimize=True))
    text = new.model_dump_json(indent=2) + "\n"
    _write(book_path(folder), lambda path: path.write_text(text, encoding="utf-8"))
    return book_path(folder), pictures_path(folder)


def read(folder: Path) -> Book | None:
    """Return what is on record, or None.

    Raises:
        UsageMistake: it is damaged.
    """
    path = book_path(folder)
    if not path.is_file():
        return None
    try:
        return Book.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        raise UsageMistake(f"{path}: {where} is damaged. Write it again: {RECORD}.") from None


def book_path(folder: Path) -> Path:
    """Return where the hashes are."""
    return folder / "doctor_hashes.json"


def pictures_path(folder: Path) -> Path:
    """Return where the pictures are, side by side in one."""
    return folder / "doctor_frames.png"


def _largest_difference(frames: "NDArray[np.uint8]", folder: Path) -> int:
    """Largest difference of a colour value from the recorded pictures."""
    import numpy as np
    from PIL import Image

    path = pictures_path(folder)
    try:
        with Image.open(path) as strip:
            known = np.asarray(strip.convert("RGB"), np.int16)
    except OSError:
        raise UsageMistake(f"{path} is missing or damaged. Write it again: {RECORD}.") from None
    shown = np.concatenate(frames[list(PICTURES)], axis=1).astype(np.int16)
    if known.shape != shown.shape:
        raise UsageMistake(f"{path} has another size than the film. Write it again: {RECORD}.")
    return int(np.abs(known - shown).max())


def _write(path: Path, content: Callable[[Path], Any]) -> None:
    """Whole or not at all."""
    half = path.with_name(f".{path.name}.tmp")
    try:
        content(half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
