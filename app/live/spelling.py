"""Spelling: words of a prompt that the model does not know, with the nearest that it does.

Comparing a word with a vocabulary takes a millisecond, and prompts are read on the event loop, so looking words up
takes at most a twentieth of its time: what there is no time for is not told.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from pipelines.types import Prompt

AT_ONCE = 0.02
"""Seconds for one prompt."""
_SHARE = 20
_LONGEST_WORD = 40
_REMEMBERED = 2048


class Spelling:
    """Of one model; used by one thread, the event loop's.

    Args:
        look_up: the unknown ones among the words of a text, each with the nearest known.
        clock: seconds that only go forward.
    """

    def __init__(
        self, look_up: Callable[[str], Mapping[str, Sequence[str]]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._look_up, self._clock = look_up, clock
        self._known: OrderedDict[str, dict[str, list[str]]] = OrderedDict()
        self._again_at = float("-inf")

    def unknown(self, prompt: Prompt) -> dict[str, list[str]]:
        """The unknown words of a prompt."""
        texts = [prompt] if isinstance(prompt, str) else [text for text, _ in prompt]
        begun = self._clock()
        found: dict[str, list[str]] = {}
        for word in dict.fromkeys(word for text in texts for word in text.split()):
            known = self._known.get(word)
            if known is None and len(word) <= _LONGEST_WORD and self._again_at <= begun > self._clock() - AT_ONCE:
                known = {each: list(near) for each, near in self._look_up(word).items()}
                self._known[word] = known
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            found |= known or {}
        if self._again_at <= begun:
            self._again_at = begun + _SHARE * (self._clock() - begun)
        return found
