"""Kept input: the pictures that a live film was made of, as they came, in a file beside its log.

Pictures have no number but a name, which is the hash of their bytes: the log says by it what entered a chunk, a file
that was written twice holds the same, and one that was changed is found out.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from app.config.readers import FITS, FitKind
from app.errors import UsageMistake, printable, shorten_path
from app.media.compressed import decoded_picture
from app.media.fit import Fit
from app.media.flatten import flattened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT = "input.pictures"
"""The file's name, beside session.jsonl."""
HELD = 16 * 2**20
"""Bytes that wait for a disk: minutes of a camera."""
LARGEST_PICTURE = 2**20
FORMATS = ("JPEG", "WEBP")
_MAGIC = b"RVIP\x01\n"
_HEADER = struct.Struct("<IBBd")
_NAME = 32


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture as it came: its format's number among `FORMATS`, how it was fitted, `hold` of its detail, its bytes."""

    codec: int
    fit: FitKind
    hold: float
    payload: bytes

    @property
    def name(self) -> str:
        """What the log calls it."""
        return hashlib.sha256(self.packed).hexdigest()[:_NAME]

    @property
    def packed(self) -> bytes:
        """As it lies in the file: 14 bytes, little endian, then the picture."""
        return _HEADER.pack(len(self.payload), self.codec, FITS.index(self.fit), self.hold) + self.payload

    def pixels(self, height: int, width: int) -> NDArray[np.uint8]:
        """As it enters a film of this size, uint8 RGB [H, W, 3].

        Raises:
            BadPicture: it cannot be read.
        """
        fit = Fit(height, width, self.fit)
        return flattened(decoded_picture(self.payload, FORMATS[self.codec], fit), self.hold)


class InputWriter:
    """Appends pictures to the file of one film, and lets nobody wait for a disk.

    Args:
        path: of the file; one that is there goes on.
        later: has something done by a thread that may wait for the disk.
        room: raises UsageMistake where the disk shall not take so many bytes more.

    Attributes:
        trouble: called, on any thread, with a sentence that says why nothing is kept any more.
    """

    def __init__(
        self, path: Path, later: Callable[[Callable[[], None]], object], room: Callable[[int], object]
    ) -> None:
        self.trouble: Callable[[str], object] = lambda why: None
        self._path, self._later, self._room = path, later, room
        self._lock = Lock()
        self._waiting: list[bytes] = []
        self._held = 0
        self._known = set[str]()  # written, or about to be
        self._failed = self._asked = False

    def keep(self, picture: KeptPicture) -> str:
        """Keep a picture and return its name; "" where nothing is kept any more. Never blocks."""
        name = picture.name
        with self._lock:
            if self._failed:
                return ""
            if name in self._known:
                return name
            full = self._held + len(picture.payload) > HELD
            if not full:
                self._known.add(name)
                self._waiting.append(picture.packed)
                self._held += len(picture.payload)
            asked, self._asked = self._asked, True
        if full:
            self._fail("the disk is not fast enough")
            return ""
        if not asked:
            self._later(self._write)
        return name

    def again(self) -> None:
        """Somebody asks for it anew: after a failure there may be room by now."""
        with self._lock:
            self._failed = False

    def _write(self) -> None:
        with self._lock:
            self._asked, waiting, self._waiting, self._held = False, self._waiting, [], 0
        data = b"".join(waiting)
        try:
            self._room(len(data))
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(handle).st_size
                rest = memoryview(data if size else _MAGIC + data)
                try:
                    while rest:
                        rest = rest[os.write(handle, rest) :]
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)
        except UsageMistake as error:
            self._fail(str(error).rstrip("."))
        except OSError as error:
            self._fail(f"the disk refuses it ({error.strerror})")

    def _fail(self, why: str) -> None:
        with self._lock:
            told, self._failed = self._failed, True
            self._waiting, self._held = [], 0
            self._known.clear()
        if not told:
            self.trouble(f"The input is not recorded any more: {why[:1].lower()}{why[1:]}.")


class KeptInput:
    """The pictures of a file, by name.

    Args:
        path: of the file.

    Raises:
        UsageMistake: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        for name, start, size in _walk(path):
            self._places[name] = start, size

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def picture(self, name: str) -> KeptPicture:
        """The picture of this name, which is in the file."""
        start, size = self._places[name]
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        _, codec, fit, hold = _HEADER.unpack_from(data)
        return KeptPicture(codec, FITS[int(fit)], hold, data[_HEADER.size :])


def _walk(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, place and bytes of every whole picture; what a kill cut ends the file."""
    shown = printable(shorten_path(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageMistake(f"{shown} cannot be read ({error.strerror}). Give the {KEPT} of the live film.") from error
    with file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UsageMistake(f"{shown} holds no recorded input. Give the {KEPT} of the live film.")
        while len(head := file.read(_HEADER.size)) == _HEADER.size:
            length, codec, fit, hold = _HEADER.unpack(head)
            sound = length <= LARGEST_PICTURE and codec < len(FORMATS) and fit < len(FITS) and 0 <= hold <= 1
            start = file.tell() - _HEADER.size
            payload = file.read(length) if sound else b""
            if not sound or len(payload) < length:
                return
            yield hashlib.sha256(head + payload).hexdigest()[:_NAME], start, _HEADER.size + length
