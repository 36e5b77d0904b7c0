"""The Gradio shell: tabs and theme around the page, and every work-around for Gradio in one place.

Seen in Gradio 6.31.0; tests/server/test_page_security.py notices when Gradio changes what they rest on.

1. Its `head` is put into the document by its own script, most of a second after the page has come: our script goes into
   the HTML as it is sent, which is uncompressed for that (`GradioShell._page`).
2. Its script of a megabyte takes both cores of a small machine before a picture is drawn: it is left out of the HTML
   until app/server/static/start.js asks for it. A page that Gradio writes otherwise loads as it was written.
3. It sends forty scripts and styles, whose names carry a hash, without a word on how long they keep: they are asked for
   anew at every visit (`GradioShell._asset`).
4. Its own routes cannot be left out: uploads to the disk, a proxy, streams without end. Our page uses none, and they
   are closed (`CLOSED`). Its `auth` would leave sockets open: it is not used, app/server/access.py stands before all.
5. gr.HTML compiles its template and `js_on_load` with `new Function`, and components write style attributes: the
   policy of the page has to allow `'unsafe-eval'` for scripts and `'unsafe-inline'` for styles. Inline scripts, some of
   which Gradio writes with the page's address in them, run by their hash (`page_policy`).
6. A tab that was not opened yet has no elements, unless `render_children` asks for them (`build_page`).
"""

import base64
import re
from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from app.errors import UsageMistake
from app.server.access import AsgiApp, Message, Receive, Scope, Send
from app.server.page import Engine, page_facts, page_script, tabs_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

ASSETS, CLOSED = "/assets/", "/gradio_api/"
_MODULE = re.compile(rb'<script type="module" crossorigin (src="\./assets/index-[\w-]+\.js")></script>')
_FONTS = ("system-ui", "sans-serif")
_KEPT = (b"cache-control", b"max-age=31536000, immutable")
_INLINE = re.compile(rb"<script\b(?![^>]*\ssrc=)[^>]*>(.*?)</script", re.DOTALL | re.IGNORECASE)
_POLICY = (
    "default-src 'self'",
    "script-src 'self' 'unsafe-eval' {scripts}",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' blob: data:",
    "media-src 'self' blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'self'",
)


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
        for title, name in tabs_of(jobs).items():
            with gradio.Tab(title, render_children=True):
                _place(name)
    return page


def mount_page(
    app: "FastAPI", engine: Engine, jobs: object | None = None, *, root_path: str = "", perform: bool = False
) -> "FastAPI":
    """Put the page at the root of `app`, below the routes that it has already; `perform` as in make_app."""
    facts = page_facts(engine.request, tabs=tuple(tabs_of(jobs)), perform=perform)
    page = build_page(jobs)
    from gradio.routes import mount_gradio_app  # pyright: ignore[reportUnknownVariableType]  # of its `auth`
    from gradio.themes import Base

    app.add_middleware(GradioShell, script=page_script(facts))
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


class GradioShell:
    """Middleware between our gate and Gradio: the page, its assets, and what is closed."""

    def __init__(self, app: AsgiApp, *, script: str) -> None:
        self.app = app
        self.script = f"<script>{script}</script></head>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] != "lifespan" else ""
        if f"{path}/".startswith(CLOSED):
            await self._closed(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and path == "/":
            await self._page(scope, receive, send)
        elif scope["type"] == "http" and path.startswith(ASSETS):
            await self._asset(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _closed(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = "Rivulet does not use this. Its own routes are in /openapi.json."
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": told})  # becomes a 403
        else:
            await PlainTextResponse(f"{told}\n", 404)(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
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

    async def _asset(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [*message["headers"], _KEPT]
            await send(message)

        await self.app(scope, receive, kept)


def page_policy(page: bytes) -> bytes:
    """The header's value for a page as it is sent: its inline scripts run, and no other."""
    hashes = [base64.b64encode(sha256(script).digest()).decode() for script in _INLINE.findall(page)]
    return "; ".join(_POLICY).replace("{scripts}", " ".join(f"'sha256-{each}'" for each in hashes)).encode()


def _place(name: str) -> None:
    """An empty element that the script fills."""
    import gradio

    gradio.HTML("", html_template="<div></div>", js_on_load=f"window.rivulet{name}(element)", apply_default_css=False)
