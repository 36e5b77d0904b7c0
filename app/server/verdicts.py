"""Verdicts on models, counted in a process of their own: it takes seconds of Python, which the films that play need."""

import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from app.errors import UsageMistake, explain
from app.jobs.process import environment, give_way
from weights.catalog import MODELS

KEPT_SECONDS = 300.0
"""For so long a verdict stands; memory and disk are others by then."""
LONGEST_WAIT = 120.0
"""Seconds that one is waited for, on a machine that does other things too."""
_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "app.server.verdicts")


class Verdicts:
    """Of one server. Whoever asks for one has all others counted behind it.

    Args:
        models_dir: where weights lie; None = the Hugging Face cache.
    """

    def __init__(self, models_dir: Path | None) -> None:
        self._place = "" if models_dir is None else str(models_dir)
        self._changed = threading.Condition()
        self._found: dict[str, tuple[float, list[str]]] = {}
        self._counting = False

    def of(self, name: str) -> tuple[str, str]:
        """The word and the sentence on a model of the catalogue; waits for it.

        Raises:
            UsageMistake: it could not be counted.
        """
        with self._changed:
            if self._known(name) is None and not self._counting:
                names = [name, *(other for other in MODELS if other != name and self._known(other) is None)]
                self._counting = True
                threading.Thread(target=self._count, args=(names,), name="verdicts", daemon=True).start()
            self._changed.wait_for(lambda: self._known(name) is not None or not self._counting, LONGEST_WAIT)
            if (found := self._known(name)) is None:
                raise UsageMistake(f"What {name} needs could not be counted. Run: rivulet models show {name}")
            return found[0], found[1]

    def _known(self, name: str) -> list[str] | None:
        at, told = self._found.get(name, (float("-inf"), []))
        return told if time.monotonic() - at < KEPT_SECONDS else None

    def _count(self, names: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                [*_COMMAND, self._place, *names],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
            give_way(process.pid)
            end = weakref.finalize(self, _kill, process)
            assert process.stdout is not None
            for line in process.stdout:
                name, *told = json.loads(line)
                with self._changed:
                    self._found[name] = (time.monotonic(), told)
                    self._changed.notify_all()
            end()
        finally:
            with self._changed:
                self._counting = False
                self._changed.notify_all()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def main() -> None:
    """Count for the models that are named, a line of JSON each: name, word, sentence."""
    from app.loading.verdict import verdict_on

    place, *names = sys.argv[1:]
    for name in names:
        try:
            found = verdict_on(MODELS[name], models_dir=Path(place) if place else None)
            word, told = ("small", "it runs on any machine") if found is None else (found.word, found.told)
        except Exception as error:  # a card that is full, say: the others are counted all the same
            word, told = "not counted", explain(error)[0].rstrip(".")
        print(json.dumps([name, word, told]), flush=True)


if __name__ == "__main__":
    main()
