"""Input log: what entered a film's newest chunk beside words, and its pictures where they are to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.record.kept_input import InputWriter, KeptPicture
from app.record.session_log import InputAction


@dataclass(frozen=True, slots=True)
class Entry:
    """What entered a chunk beside words, as `app.record.session_log.Entered` has it."""

    action: InputAction
    pictures: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()
    strength: float | None = None
    steps: int | None = None

    def as_data(self) -> dict[str, Any]:
        """Its fields."""
        return {**asdict(self), "pictures": [*self.pictures], "parts": [*self.parts]}


class InputLog:
    """Of one film.

    Args:
        kept: keeps pictures.

    Attributes:
        entries: of the newest chunk, in order.
        unkept: whether pictures entered it that were not kept.
    """

    def __init__(self, kept: InputWriter) -> None:
        self._kept = kept
        self.entries: list[Entry] = []
        self.unkept = False
        self._forgotten = False

    def begin_chunk(self) -> None:
        """What comes enters another chunk."""
        self.entries, self.unkept = [], False
        if self._forgotten:
            self.entries.append(Entry("forget"))
        self._forgotten = False

    def forget(self) -> None:
        """What was on its way to the screen is dropped before the next chunk."""
        self._forgotten = True

    def note(
        self,
        action: InputAction,
        pictures: Sequence[KeptPicture] = (),
        *,
        record: bool = True,
        parts: tuple[int, ...] = (),
        strength: float | None = None,
        steps: int | None = None,
    ) -> None:
        """Something enters the chunk that is made: a line of the log, with its pictures if they are to be kept."""
        names = [self._kept.keep(picture) for picture in pictures] if record else []
        if pictures and not (names and all(names)):
            self.unkept = True
        else:
            self.entries.append(Entry(action, tuple(names), parts, strength, steps))
