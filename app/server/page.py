"""The page: Gradio's tabs and theme around a film that our own script plays.

Gradio gives the frame, the theme and its dark mode. Pictures and controls travel on one WebSocket that the script
opens before Gradio has drawn anything, because a click that goes through Gradio's queue costs a tenth of a second.
"""

import base64
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from app.errors import UsageMistake
from app.loading.model import EngineRequest, at_hand
from app.server.access import AsgiApp, Message, Receive, Scope, Send
from app.server.content_policy import page_policy
from app.server.scenes import PERFORMANCE, WORDS, is_embedded, scenes_of
from pipelines.presets import PRESETS
from weights.catalog import MODELS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

STATIC = Path(__file__).with_name("static")
SCRIPTS = (
    "link.js",
    "enlarger.js",
    "screen.js",
    "panels.js",
    "advice.js",
    "said.js",
    "words.js",
    "performer.js",
    "live.js",
    "drop.js",
    "shots.js",
    "joblist.js",
    "jobs.js",
    "plots.js",
    "compare.js",
    "start.js",
)
STYLES = ("live.css", "tabs.css")
TABS = {"Live": "Live", "Long render": "Jobs", "Compare": "Compare"}
"""Titles, and what fills them in app/server/static: window.rivuletLive and so on."""
JPEG_QUALITY = 85
DRIFT_LIMIT = 3.0
"""Standard deviations from which the drift counts as too much (app/server/static/live.js marks it)."""
ASSETS = "/assets/"
_MODULE = re.compile(rb'<script type="module" crossorigin (src="\./assets/index-[\w-]+\.js")></script>')
"""Gradio's own script, which app/server/static/start.js begins; a page without it loads as Gradio wrote it."""
_FONTS = ("system-ui", "sans-serif")


class Engine(Protocol):
    """The part of app.live.engine.LiveEngine that the page needs."""

    @property
    def request(self) -> EngineRequest: ...


def page_facts(request: EngineRequest) -> dict[str, Any]:
    """What the page has to know before the film says hello."""
    system = request.preset
    model = request.model or system.model
    return {
        "model": model,
        "preset": system.name,
        "models": [(name, name) for name in MODELS if name == model or at_hand(name)],
        "presets": [(preset.name, preset.name, preset.title) for preset in PRESETS.values()],
        "builtin": is_embedded(request),
        "poster": _poster() if is_embedded(request) else None,
        "scenes": scenes_of(request),
        "words": WORDS if is_embedded(request) else None,
        "steps": len(system.schedule.denoising_step_list),
        "window": getattr(system.cache, "window", None),
        "sink": getattr(system.cache, "sink", None),
        "jpeg_quality": JPEG_QUALITY,
        "drift_limit": DRIFT_LIMIT,
    }


def build_page(jobs: object | None = None) -> "Blocks":
    """The page as Gradio's Blocks; without `jobs` it has the Live tab alone.

    Raises:
        UsageMistake: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise UsageMistake("The page needs Gradio. Install it: pip install 'rivulet[web]'") from None

    with gradio.Blocks(title="Rivulet", analytics_enabled=False) as page, gradio.Tabs():
        for title, name in TABS.items() if jobs is not None else [("Live", "Live")]:
            with gradio.Tab(title, render_children=True):
                _place(name)
    return page


def mount_page(
    app: "FastAPI", engine: "Engine", jobs: object | None = None, *, root_path: str = "", perform: bool = False
) -> "FastAPI":
    """Put the page at the root of `app`, below the routes that it has already; `perform` as in make_app."""
    facts = page_facts(engine.request) | {"tabs": ["Live"] if jobs is None else list(TABS)}
    facts["perform"] = PERFORMANCE if perform and facts["builtin"] else None
    page = build_page(jobs)
    from gradio.routes import mount_gradio_app  # pyright: ignore[reportUnknownVariableType]  # of its `auth`
    from gradio.themes import Base

    app.add_middleware(EarlyScript, script=page_script(facts))
    app.add_middleware(Assets)
    return mount_gradio_app(
        app,
        page,
        path="/",
        root_path=root_path or None,
        theme=Base(primary_hue="teal", font=_FONTS, font_mono=("ui-monospace", "monospace")),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )


def page_script(engine_facts: Mapping[str, Any]) -> str:
    """Everything that runs in the browser, in one scope, so that no further request has to be answered."""
    facts = dict(engine_facts) | {"html": _text("live.html"), "css": "".join(map(_text, STYLES))}
    facts |= {"jobs_html": _text("jobs.html"), "compare_html": _text("compare.html")}
    told = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")  # no text of it can end the script
    return "\n".join(("(() => {", f"const facts = {told};", *map(_text, SCRIPTS), "})();"))


class EarlyScript:
    """Puts our script into the head of the page as it is sent.

    Gradio's own `head` is applied in the browser, after its megabyte of script: most of a second later.
    """

    def __init__(self, app: AsgiApp, *, script: str) -> None:
        self.app = app
        self.script = f"<script>{script}</script></head>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page_asked = scope["type"] == "http" and scope["method"] == "GET"
        if not page_asked or scope["path"].removeprefix(scope.get("root_path", "")) != "/":
            await self.app(scope, receive, send)
            return
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]  # Gradio compresses
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            if message["type"] != "http.response.body":
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                page = _MODULE.sub(rb'<script id="rv-gradio" type="text/later" \1></script>', bytes(body), count=1)
                page = page.replace(b"</head>", self.script, 1)
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                headers.append((b"content-length", str(len(page)).encode()))
                headers.append((b"content-security-policy", page_policy(page)))
                await send(start | {"headers": headers})
                await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)


class Assets:
    """Lets the browser keep Gradio's forty scripts and styles: their names carry a hash of what is in them."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].removeprefix(scope.get("root_path", "")).startswith(ASSETS):
            await self.app(scope, receive, send)
            return

        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [*message["headers"], (b"cache-control", b"max-age=31536000, immutable")]
            await send(message)

        await self.app(scope, receive, kept)


@cache
def _poster() -> str:
    """A picture of the first film as a data URL, there before the model is: frame 30 of the default prompt, seed 7."""
    return "data:image/jpeg;base64," + base64.b64encode((STATIC / "poster.jpg").read_bytes()).decode()


@cache
def _text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _place(name: str) -> None:
    """An empty element that the script fills."""
    import gradio

    gradio.HTML("", html_template="<div></div>", js_on_load=f"window.rivulet{name}(element)", apply_default_css=False)
