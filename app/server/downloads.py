"""Downloads of weights that somebody at this machine asked the page for: one at a time, told while they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import Literal

from pydantic import BaseModel

from app.errors import explain, printable
from app.server.refusals import Refused
from weights.catalog import MODELS, WeightSpec
from weights.hub import Hub, HuggingFace, must_have_room, pull, wanted
from weights.store import place_of

Status = Literal["idle", "running", "done", "failed", "cancelled"]


class Forbidden(Refused):
    """Whoever asks is not at this machine, or has not accepted a licence."""

    status = 403


class UnderWay(Refused):
    """Another download runs."""

    status = 409


class Download(BaseModel):
    """The newest download: bytes done and in all (0: not known yet), bytes a second, and a sentence about its end."""

    status: Status = "idle"
    model: str = ""
    file: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    message: str = ""


class _Cancelled(Exception):
    """Raised out of the transfer."""


class Downloads:
    """Of one server.

    Args:
        models_dir: where they go; None = the Hugging Face cache.
        offline: none may be begun.
        hub: where from.
    """

    def __init__(
        self,
        models_dir: Path | None,
        *,
        offline: bool = False,
        hub: Hub | None = None,
    ) -> None:
        self._models_dir, self._offline, self._hub = models_dir, offline, hub or HuggingFace()
        self._lock = Lock()
        self._state = Download()
        self._thread: Thread | None = None
        self._cancelled = False

    @property
    def state(self) -> Download:
        """How it stands."""
        with self._lock:
            return self._state

    def begin(self, name: str, *, licence_accepted: bool) -> Download:
        """Begin to fetch what is missing of a model.

        Raises:
            Forbidden: the server is offline, or a licence has to be accepted first.
            UnderWay: another download runs.
        """
        if self._offline:
            raise Forbidden("This server was started with --offline. Fetch it with rivulet models pull.")
        specs = [
            each for each in MODELS[name].weights if each.where == "hub" and place_of(each, self._models_dir) is None
        ]
        narrow = [each for each in specs if each.licence_tick]
        if narrow and not licence_accepted:
            told = "; ".join(dict.fromkeys(f"{each.name}: {each.licence} ({each.page})" for each in narrow))
            raise Forbidden(f"{name} asks for your consent ({told}). Tick that you accept it.")
        with self._lock:
            if self._state.status == "running":
                raise UnderWay(f"{self._state.model} is being fetched. Cancel that first, or wait.")
            self._cancelled, self._state = False, Download(status="running", model=name)
        self._thread = Thread(target=self._run, args=(name, specs), name="rivulet-download", daemon=True)
        self._thread.start()
        return self.state

    def cancel(self) -> Download:
        """End it; what came so far stays, and the next one goes on from there."""
        with self._lock:
            self._cancelled = True
        return self.state

    def close(self) -> None:
        """Let it end with the server; nobody waits for it."""
        self.cancel()

    def wait(self, seconds: float) -> Download:
        """Wait for its end, at most so long; for tests."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.state

    def _run(self, name: str, specs: Sequence[WeightSpec]) -> None:
        try:
            files = [each for spec in specs for each in wanted(spec, self._hub.files(spec.repo))]
            must_have_room(name, files, self._models_dir)
            self._tell(total=sum(each.size for each in files))
            before = 0
            for spec in specs:
                own = sum(each.size for each in wanted(spec, self._hub.files(spec.repo)))
                pull(spec, self._models_dir, self._hub, licence_accepted=True, report=self._report(before))
                before += own
                if self._cancelled:
                    raise _Cancelled
            self._tell(status="done", done=before, message=f"{name} is here.")
        except Exception as error:
            if self._cancelled:
                told = "Cancelled. What came so far stays: the next time goes on from there."
                self._tell(status="cancelled", message=told)
            else:
                self._tell(status="failed", message=printable(explain(error)[0]))

    def _report(self, before: int) -> Callable[[str, int, int, float], None]:
        """What tells how far a set of weights is, behind `before` bytes of others."""
        finished: dict[str, int] = {}

        def report(path: str, done: int, total: int, rate: float) -> None:
            if self._cancelled:
                raise _Cancelled
            finished[path] = done
            self._tell(file=path, done=before + sum(finished.values()), rate=rate)

        return report

    def _tell(self, **changes: object) -> None:
        with self._lock:
            self._state = self._state.model_copy(update=changes)
