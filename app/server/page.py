"""The page: one script with all that a browser needs, and the facts that it begins with.

Gradio gives the frame, the theme and its dark mode (app/server/gradio_shell.py). Pictures and controls travel on one
WebSocket that the script opens before Gradio has drawn anything, because a click that goes through Gradio's queue costs
a tenth of a second.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from app.loading.engine_request import EngineRequest
from app.loading.model import at_hand
from app.server.controls import controls
from app.server.scenes import PERFORMANCE, WORDS, is_embedded, scenes_of
from pipelines.presets import PRESETS
from weights.card import read_card
from weights.catalog import MODELS
from weights.find import get_model

STATIC = Path(__file__).with_name("static")
SCRIPTS = (
    "link.js",
    "enlarger.js",
    "screen.js",
    "panels.js",
    "branches.js",
    "takes.js",
    "asking.js",
    "saves.js",
    "advice.js",
    "said.js",
    "words.js",
    "performer.js",
    "live.js",
    "source.js",
    "camera.js",
    "begin.js",
    "drop.js",
    "shots.js",
    "watch.js",
    "joblist.js",
    "jobs.js",
    "plots.js",
    "compare.js",
    "gallery.js",
    "models.js",
    "start.js",
)
LIVE_TAB = {"Live": "Live"}
JOBS_TABS = {"Long render": "Jobs", "Compare": "Compare", "Gallery": "Gallery", "Models": "Models"}
STYLES = ("live.css", "camera.css", "tabs.css")
DRIFT_LIMIT = 3.0
"""Standard deviations from which the drift counts as too much (app/server/static/live.js marks it)."""


class Engine(Protocol):
    """The part of app.live.engine.LiveEngine that the page needs."""

    @property
    def request(self) -> EngineRequest: ...


def tabs_of(jobs: object | None) -> dict[str, str]:
    """Titles of the tabs, and what fills each in app/server/static: window.rivuletLive and so on."""
    return LIVE_TAB if jobs is None else {**LIVE_TAB, **JOBS_TABS}


def page_facts(request: EngineRequest, *, tabs: Sequence[str] = ("Live",), perform: bool = False) -> dict[str, Any]:
    """What the page has to know before the film says hello; `perform` as in make_app."""
    system = request.preset
    model = request.model or system.model
    return {
        "model": model,
        "preset": system.name,
        "models": [(name, name) for name in MODELS if name == model or at_hand(name)],
        "presets": [(preset.name, preset.name, preset.title) for preset in PRESETS.values()],
        "builtin": is_embedded(request),
        "poster": _poster() if is_embedded(request) else None,
        "tabs": tabs,
        "perform": PERFORMANCE if perform and is_embedded(request) else None,
        "scenes": scenes_of(request),
        "words": WORDS if is_embedded(request) else None,
        "steps": len(system.schedule.denoising_step_list),
        "sink": getattr(system.cache, "sink", None),
        "controls": controls(system),
        "transition": _transition(model),
        "drift_limit": DRIFT_LIMIT,
    }


def _transition(model: str) -> str:
    """How a prompt takes over where nobody says it, as the model's card has it by a figure."""
    try:
        spec = get_model(model)
        return (
            read_card(Path(spec.transformer.file).parent)["transition"]
            if spec.transformer.where != "hub"
            else "recache"
        )
    except (
        KeyError,
        ValueError,
        OSError,
    ):  # an older card, or none; whoever loads the model says what is wrong with it
        return "recache"


def page_script(engine_facts: Mapping[str, Any]) -> str:
    """Everything that runs in the browser, in one scope, so that no further request has to be answered."""
    facts = dict(engine_facts) | {"html": _text("live.html"), "css": "".join(map(_text, STYLES))}
    facts |= {f"{name}_html": _text(f"{name}.html") for name in ("jobs", "compare", "gallery", "models")}
    told = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")  # no text of it can end the script
    return "\n".join(("(() => {", f"const facts = {told};", *map(_text, SCRIPTS), "})();"))


@cache
def _poster() -> str:
    """A picture of the first film as a data URL, there before the model is: frame 30 of the default prompt, seed 7."""
    return "data:image/jpeg;base64," + base64.b64encode((STATIC / "poster.jpg").read_bytes()).decode()


@cache
def _text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
