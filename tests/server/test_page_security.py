"""The page in a real Chromium around a painted film: what it may load and run, behind TLS and a sub-path too."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from app.jobs.queue import Jobs
from app.live.messages import Problem, QueueItem, QueueState, Span, Track
from app.loading.engine_request import EngineRequest
from app.server.access import Access
from app.server.addresses import read_proxies
from app.server.gradio_shell import page_policy
from app.server.routes import make_app
from pipelines.presets import get_preset
from tests.live_doubles import SECRET, PaintedEngine, served, until
from tests.tls_proxy import certificate, proxied

pytestmark = pytest.mark.browser
SPY = """
window.blocked = [];
addEventListener('securitypolicyviolation', event => blocked.push(event.violatedDirective));
window.sockets = [];
const See = window.WebSocket;
window.WebSocket = function (...given) { const socket = new See(...given); sockets.push(socket); return socket; };
Object.assign(window.WebSocket, {OPEN: 1, CONNECTING: 0, CLOSING: 2, CLOSED: 3});
window.drawn = 0;
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...given) { draw.apply(this, given); window.drawn += 1; };
"""
EVIL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"'><b id=evil>"


class Painted(PaintedEngine):
    """With what the page asks of an engine."""

    request = EngineRequest(preset=get_preset("embedded"))


@contextmanager
def a_server(folder: Path, *, renderer: Sequence[str] | None = None, **settings: Any) -> Iterator[tuple[str, Painted]]:
    """A painted film; render jobs are queued, and never begun without a `renderer`."""
    engine: Any = Painted(folder=folder)
    jobs = Jobs(folder / "jobs") if renderer is None else Jobs(folder / "jobs", renderer=renderer)
    if renderer is not None:
        jobs.start()
    try:
        engine.start()
        with served(make_app(engine, secret=SECRET, jobs=jobs, **settings)) as address:
            yield address, engine
    finally:
        engine.close()
        jobs.close()


@contextmanager
def a_page(browser: Any, url: str, **settings: Any) -> Iterator[Any]:
    """The page, when its film plays."""
    with browser.new_context(ignore_https_errors=True, **settings) as context:
        page = context.new_page()
        page.answers = []
        page.on("response", lambda answer: page.answers.append((answer.status, answer.url)))
        page.add_init_script(SPY)
        page.goto(url, wait_until="commit")
        page.wait_for_function("window.drawn > 2", timeout=30_000)
        page.wait_for_selector("button[role=tab]", timeout=30_000)
        yield page


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Painted]]:
    with a_server(tmp_path_factory.mktemp("film")) as (address, engine):
        yield f"http://{address}/", engine


@pytest.fixture
def page(browser: Any, film: tuple[str, Painted]) -> Iterator[Any]:
    with a_page(browser, film[0]) as page:
        yield page


def see_every_tab(page: Any) -> None:
    for tab in page.query_selector_all("button[role=tab]"):
        tab.click()
        page.wait_for_timeout(400)


def test_nothing_that_the_page_needs_is_blocked(page: Any, film: tuple[str, Painted]) -> None:
    with urlopen(film[0]) as answer:
        assert b'<script id="rv-gradio" type="text/later"' in answer.read(), "Gradio writes its script differently now"
    see_every_tab(page)
    assert page.evaluate("blocked") == []
    assert [answer for answer in page.answers if answer[0] >= 400] == []
    assert {url[: len(film[0])] for _, url in page.answers if not url.startswith(("data:", "blob:"))} == {film[0]}


ATTACKS: dict[str, tuple[str, str]] = {
    "an inline script": (
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)",
        "script-src-elem",
    ),
    "a handler in an attribute": (
        "const i = document.createElement('div'); i.innerHTML = '<img src=x onerror=\"window.hacked = 1\">'; "
        "document.body.append(i)",
        "script-src-attr",
    ),
    "a script from elsewhere": (
        "const s = document.createElement('script'); s.src = 'https://example.com/x.js'; document.body.append(s)",
        "script-src-elem",
    ),
    "a picture from elsewhere": ("new Image().src = 'https://example.com/x.png?' + document.title", "img-src"),
    "a film from elsewhere": (
        "const v = document.createElement('video'); v.src = 'https://example.com/x.mp4'; document.body.append(v)",
        "media-src",
    ),
    "a message elsewhere": ("fetch('https://example.com/', {mode: 'no-cors'}).catch(() => 0)", "connect-src"),
    "a socket elsewhere": ("try { new WebSocket('wss://example.com/') } catch (error) {}", "connect-src"),
    "a form elsewhere": (
        "const f = document.createElement('form'); f.action = 'https://example.com/'; document.body.append(f); "
        "f.submit()",
        "form-action",
    ),
    "another base": (
        "const b = document.createElement('base'); b.href = 'https://example.com/'; document.head.prepend(b)",
        "base-uri",
    ),
    "a frame from elsewhere": (
        "const f = document.createElement('iframe'); f.src = 'https://example.com/'; document.body.append(f)",
        "frame-src",
    ),
}


def test_what_somebody_may_smuggle_in_is_blocked(page: Any) -> None:
    for name, (attack, directive) in ATTACKS.items():
        page.evaluate("blocked.length = 0")
        page.evaluate(f"(() => {{ {attack} }})()")
        end = time.monotonic() + 5
        while directive not in (seen := page.evaluate("blocked")) and time.monotonic() < end:
            page.wait_for_timeout(20)
        assert directive in seen, (name, seen)
    assert page.evaluate("window.hacked") is None


def test_texts_of_people_stay_texts(page: Any, film: tuple[str, Painted]) -> None:
    engine = film[1]
    page.wait_for_function("sockets.length > 0")
    session = next(each for each in engine.sessions.values() if each.viewers)
    spans = [Span(kind=kind, prompt=EVIL, begin=16 * at, end=16 * at + 16) for at, kind in enumerate(("past", "now"))]
    session.tell(Track(spans=[*spans, Span(kind="queued", prompt=EVIL, begin=32)]))
    session.tell(QueueState(items=[QueueItem(id="q", prompt=EVIL)]))
    session.tell(Problem(message=EVIL, action=EVIL, code="refused"))
    body = json.dumps({"prompt": EVIL, "name": EVIL, "seconds": 1})
    asked = page.evaluate("body => fetch('v1/videos', {method: 'POST', body}).then(answer => answer.status)", body)
    assert asked == 201
    page.wait_for_function("document.body.innerText.includes('onerror=')", timeout=5_000)
    see_every_tab(page)
    page.wait_for_timeout(1500)  # the list of jobs is asked for about every second
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('#evil, [onerror]').length") == 0
    assert page.evaluate("blocked") == [], "the policy had nothing to stop"


def test_another_site_cannot_frame_the_page_nor_look_into_it(film: tuple[str, Painted]) -> None:
    for path in ("", "v1/videos", "frame.jpg?session=x&token=x", "nothing"):
        request = urllib.request.Request(f"{film[0]}{path}", headers={"origin": "https://evil.example"})
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
        assert "frame-ancestors 'self'" in named["content-security-policy"], path
        assert (named["x-content-type-options"], named["x-frame-options"]) == ("nosniff", "SAMEORIGIN")
        assert "access-control-allow-origin" not in named
        if path:
            assert named["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "path", ["upload", "file=/etc/passwd", "proxy=https://x.hf.space/", "dev/reload", "queue/join"]
)
def test_the_routes_of_gradio_that_the_page_does_not_use_are_closed(film: tuple[str, Painted], path: str) -> None:
    for url in (f"{film[0]}gradio_api/{path}", f"{film[0]}%67radio_api/{path}", f"{film[0]}{path}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, data=b"x" if path == "upload" else None), timeout=20)
        assert refused.value.code in (404, 405), url
        refused.value.close()


def test_the_policy_names_the_scripts_of_the_page_and_no_others() -> None:
    policy = page_policy(b"<script>a()</script><script src='x.js'></script><SCRIPT defer>b()</SCRIPT>").decode()
    assert policy.count("'sha256-") == 2
    assert page_policy(b"<script>a()</script>").decode().split("'sha256-")[1][:20] in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


# ------------------------------------------------------------------ TLS and sub-paths


@pytest.mark.parametrize("strip", [True, False], ids=["stripped", "left"])
def test_the_page_works_behind_a_proxy_with_tls_and_a_sub_path(browser: Any, tmp_path: Path, strip: bool) -> None:
    credentials = {"username": "ann", "password": "secret"}
    with (
        a_server(tmp_path, root_path="/film", login="ann:secret", proxies=read_proxies(["127.0.0.1"])) as (
            address,
            engine,
        ),
        proxied(address, "/film", tmp_path, strip=strip) as (url, proxy),
        a_page(browser, url, http_credentials=credentials) as page,
    ):
        see_every_tab(page)
        assert page.evaluate("sockets.at(-1).url").startswith(url.replace("https", "wss"))
        assert [answer for answer in page.answers if answer[0] >= 400 and answer[0] != 401] == []
        assert [path for path in proxy.asked if not path.startswith("/film/")] in ([], ["/favicon.ico"])
        assert page.evaluate("blocked") == []
        (cookie,) = page.context.cookies()
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        session = next(each for each in engine.sessions.values() if each.viewers)
        for path in ("frame.jpg", f"v1/sessions/{session.id}/take"):
            answer = page.request.get(f"{url}{path}?session={session.id}&token={Access(SECRET).token(session.id)}")
            assert answer.status == (404 if "take" in path else 200), path
        assert page.request.get(f"{url}openapi.json").json()["servers"] == [{"url": "/film"}]


def test_the_server_speaks_tls_itself(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.server import main as serving
    from tests import live_doubles

    cert, key = certificate(tmp_path)
    over_tls: Callable[[Any], Any] = lambda app: serving.server_config(app, ssl_certfile=cert, ssl_keyfile=key)  # noqa: E731
    monkeypatch.setattr(live_doubles, "server_config", over_tls)
    with a_server(tmp_path) as (address, engine), a_page(browser, f"https://{address}/") as page:
        assert page.evaluate("sockets.at(-1).url").startswith(f"wss://{address}/")
        until(lambda: any(session.viewers for session in engine.sessions.values()))
        assert page.evaluate("window.isSecureContext")
