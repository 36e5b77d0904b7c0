"""A live model's networks, which can be loaded anew under a smaller memory plan while its films wait on the host."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from app.errors import out_of_memory
from app.loading.engine_request import EngineRequest
from app.loading.fitting import let_go, smaller, under_plan
from app.loading.model import Loaded, load_model
from pipelines.memory_plan import MemoryPlan

if TYPE_CHECKING:
    from pipelines.presets import Preset
    from pipelines.streaming import Stream
    from pipelines.types import Prompt


class TextFacts(Protocol):
    """What a text encoder knows (models/text.py)."""

    @property
    def knows(self) -> Mapping[str, Sequence[str]]:
        """Words by category, and all `words`; empty where any text is read."""
        ...

    def unknown_words(self, prompt: str) -> Mapping[str, Sequence[str]]:
        """Words of a text that it does not know, each with known ones that mean the same."""
        ...

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        """The text in words that it knows; `unknown` are all words of it that `unknown_words` tells."""
        ...


_log = logging.getLogger(__name__)


class NoSmallerPlan(RuntimeError):
    """There is no smaller plan, or none that still loads."""


class HeldModel:
    """Of one live model; every stream over it has to be let go of before it is loaded anew.

    Args:
        request: which model, and how.

    Raises:
        ValueError, FileNotFoundError, PermissionError: as `load_model`.
        NoSmallerPlan: it does not fit under any plan.
    """

    def __init__(self, request: EngineRequest) -> None:
        self._loaded: Loaded | None = None
        self._first: Stream | None = None
        while not self._begin(request):
            asked = smaller(request, begun=False)
            if asked is None:
                name = request.model or request.preset.model
                raise NoSmallerPlan(
                    f"{name} does not fit into this card's memory, even held as small as it can be. Give a smaller "
                    "model, or --device cpu."
                )
            assert asked.plan is not None
            request = asked
            _log.warning("Out of memory while loading: held with %s.", " and ".join(asked.plan.traded))

    @property
    def loaded(self) -> Loaded:
        """What is in memory now."""
        assert self._loaded is not None  # a model that does not load any more ends its films
        return self._loaded

    @property
    def request(self) -> EngineRequest:
        """What was asked for, under the plan that it is held by."""
        return self.loaded.request

    @property
    def plan(self) -> str:
        """The plan, as records write it; "" where nobody chose one."""
        return "" if self.request.plan is None else self.request.plan.written

    @property
    def text(self) -> TextFacts | None:
        """The text encoder; None while the model is loaded anew."""
        loaded = self._loaded
        return None if loaded is None else loaded.components.text_encoder

    def memory(self) -> int:
        """Bytes in use, on the device that computes; none while the model is loaded anew."""
        loaded = self._loaded
        return 0 if loaded is None else loaded.memory()

    def build(self, preset: Preset, seed: int) -> Stream:
        """A stream that has not begun; ValueError for a preset that cannot be."""
        from pipelines.build import build_stream

        asked = self.request
        return build_stream(
            preset,
            self.loaded.components,
            height=asked.height,
            width=asked.width,
            seed=seed,
            untrained=asked.untrained,
        )

    @property
    def first(self) -> Stream:
        """A stream that films nothing: it reads prompts, and tells sizes."""
        if self._first is None:
            self._first = self.build(self.request.preset, 0)
        return self._first

    def read(self, prompt: Prompt) -> None:
        """Encode a prompt; ValueError if the model cannot read it."""
        self.first.engine.conditioner.embed(prompt)

    @property
    def can_shrink(self) -> bool:
        """Whether there is a smaller plan."""
        return smaller(self.request, begun=True) is not None

    def shrink(self) -> tuple[str, ...]:
        """Load it anew under the next smaller plan, and return what that trades beyond the one before, a phrase each.

        Raises:
            NoSmallerPlan: there is none.
        """
        before = self.request.plan or MemoryPlan()
        found = smaller(self.request, begun=True)
        while found is not None and found.plan is not None:
            if self._load(found):
                return tuple(phrase for phrase in found.plan.traded if phrase not in before.traded)
            found = smaller(found, begun=True)
        raise NoSmallerPlan("no smaller plan goes on with the films that play")

    def hold_as(self, plan: MemoryPlan) -> None:
        """Load it anew under a plan; what cannot be loaded is raised as by `load_model`."""
        if plan.written != self.plan:
            request = under_plan(self.request, plan)
            self._loaded = self._first = None
            let_go()
            self._loaded = load_model(request)

    def _begin(self, request: EngineRequest) -> bool:
        """Load it the first time, with room for a film; False: there is none."""
        try:
            self._loaded = load_model(request)
            _ = self.first
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            return True
        self._loaded = self._first = None
        let_go()
        return False

    def _load(self, request: EngineRequest) -> bool:
        self._loaded = self._first = None
        let_go()
        try:
            self._loaded = load_model(request)
            self.read("a prompt")
        except Exception as error:
            if not out_of_memory(error):
                raise
            return False
        return True


class HeldText:
    """What the text encoder of a held model knows (app.loading.live.TextFacts), whichever one that is now.

    On any thread: while the model is loaded anew, every word counts as known.
    """

    def __init__(self, held: HeldModel) -> None:
        self._held = held

    @property
    def knows(self) -> Mapping[str, Sequence[str]]:
        text = self._held.text
        return {} if text is None else text.knows

    def unknown_words(self, prompt: str) -> Mapping[str, Sequence[str]]:
        text = self._held.text
        return {} if text is None else text.unknown_words(prompt)

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        text = self._held.text
        return prompt if text is None else text.instead(prompt, unknown)

    def alone(self) -> TextFacts | None:
        """The same without the model, to be sent elsewhere; None where any text is read."""
        text = self._held.text
        return text if text is not None and text.knows else None
