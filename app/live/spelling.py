"""Words of a prompt that the model does not know, with known ones that mean the same.

Comparing a word with a vocabulary takes a millisecond, and prompts are read on the event loop, so looking words up
takes at most a twentieth of its time: what there is no time for is not told.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from app.loading.held import TextFacts
from pipelines.types import Prompt

AT_ONCE = 0.02
"""Seconds for one prompt."""
_SHARE = 20
_LONGEST_WORD = 40
_REMEMBERED = 2048


class Spelling:
    """Of one model; used by one thread, the event loop's.

    Args:
        text: what the model makes of a text.
        clock: seconds that only go forward.
    """

    def __init__(self, text: TextFacts, clock: Callable[[], float] = time.perf_counter) -> None:
        self._text, self._clock = text, clock
        self._known: OrderedDict[str, dict[str, list[str]]] = OrderedDict()
        self._again_at = float("-inf")

    def unknown(self, prompt: Prompt) -> dict[str, list[str]]:
        """The unknown words of a prompt."""
        return self.answer(prompt, instead=False)[0]

    def answer(self, prompt: Prompt, *, instead: bool = True) -> tuple[dict[str, list[str]], str | None]:
        """The unknown words of a prompt, and the prompt in known words: None where that is nothing new."""
        texts = [prompt] if isinstance(prompt, str) else [text for text, _ in prompt]
        begun = self._clock()
        timely = self._again_at <= begun
        found: dict[str, list[str]] = {}
        whole = True
        for word in dict.fromkeys(word for text in texts for word in text.split()):
            known = self._known.get(word)
            if known is None and len(word) <= _LONGEST_WORD and timely and begun > self._clock() - AT_ONCE:
                known = {each: list(near) for each, near in self._text.unknown_words(word).items()}
                self._known[word] = known
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            whole = whole and known is not None
            found |= known or {}
        said = None
        if instead and found and whole and isinstance(prompt, str):
            said = self._text.instead(prompt, found)
        if timely:
            self._again_at = begun + _SHARE * (self._clock() - begun)
        return found, said if said and said != prompt else None
