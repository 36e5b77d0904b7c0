"""When the pictures of a film are shown, where they do not follow each other evenly."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Times:
    """Moments in ticks of `tick` seconds from the first picture: when each is shown, and after them when the last ends.

    A film that ended early has fewer pictures than there are moments.
    """

    tick: Fraction
    ticks: Sequence[int]

    def second(self, picture: int) -> Fraction:
        """When a picture is shown, or for their number when the last one ends, in seconds."""
        return self.ticks[picture] * self.tick

    def picture(self, second: float) -> int:
        """The first picture that is not shown before a moment."""
        return bisect_left(self.ticks, round(Fraction(second) / self.tick), hi=len(self.ticks) - 1)
