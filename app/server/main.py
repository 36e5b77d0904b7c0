"""The process behind `rivulet web`: a free port, the engine, the render jobs and one server, from start to Ctrl-C.

The engine begins to load before Gradio is imported, so that the first film plays about when the page can be drawn.
"""

import errno
import os
import signal
import socket
import sys
import time
import webbrowser
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from logging.config import dictConfig
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from app.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, UsageMistake, shorten
from app.server.addresses import Proxies
from app.server.doors import Doors, Listener

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from app.cluster.gateway import ClusterEngine
    from app.live.engine import LiveEngine
    from app.loading.engine_request import EngineRequest

PORTS_TRIED = 20
BACKLOG = 128
"""Connections that may wait to be accepted; so many are accepted before anything else is looked after."""
FAREWELL_SECONDS = 1
"""What open sockets and streams have to end in."""
LAST_SECONDS = 4.5
"""After this long the process ends whatever is pending; films go on from their last copies."""
SWITCH_INTERVAL = 0.0002
"""Seconds after which a thread that runs Python gives way to one that waits. Torch lets Python's lock go at every call,
and the engine would wait Python's usual 5 ms for each while the event loop is at work (docs/log.md, 2026-11-30)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A socket that listens already, and the address for a browser on this machine."""

    listener: Listener
    address: str

    @property
    def port(self) -> int:
        """Its port."""
        return self.listener.getsockname()[1]


@dataclass(frozen=True, slots=True)
class Serving:
    """What `rivulet web` was asked for; the names are its flags."""

    request: "EngineRequest"
    folder: Path
    prompt: str
    seed: int
    max_sessions: int
    keep_sessions: float
    undo_memory: int
    live_memory: int
    live_disk: int
    autostart: bool
    perform: bool
    auth: str | None
    hosts: frozenset[str]
    proxies: Proxies | None
    root_path: str
    log_json: bool
    ssl_certfile: Path | None
    ssl_keyfile: Path | None
    open_browser: bool
    cluster: str | None = None


def find_place(host: str, port: int, doors: Doors | None = None) -> Place:
    """Take the first free port from `port` on; 0 is any. `doors` bound who comes in.

    Raises:
        UsageMistake: the address is not this machine's, or none of the ports is free.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise UsageMistake(f"{shorten(host, 60)} is no address. Use --host 127.0.0.1 or 0.0.0.0.") from None
    for number in range(port, min(port + PORTS_TRIED, 65536)) if port else (0,):
        listener = Listener(family, doors)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address[0], number))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise UsageMistake(f"Port {number} needs an administrator. Use one above 1023.") from None
            raise UsageMistake(f"{shorten(host, 60)} is not this machine's address. Use --host 0.0.0.0.") from None
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(address[0]), str(address[0]))
        return Place(listener, f"{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}")
    raise UsageMistake(f"Ports {port} to {port + PORTS_TRIED - 1} are taken. Choose another with --port.")


def serve(place: Place, asked: Serving) -> NoReturn:
    """Serve until Ctrl-C or SIGTERM, and end the process with the exit code."""
    from app.jobs.queue import Jobs
    from app.server.access import read_secret
    from app.server.logs import log_config

    sys.setswitchinterval(SWITCH_INTERVAL)
    dictConfig(log_config(as_json=asked.log_json))  # a model that cannot be loaded is told before there is a server
    with place.listener:
        asked.folder.mkdir(parents=True, exist_ok=True)
        secret = read_secret(asked.folder)
        scheme = "http" if asked.ssl_certfile is None else "https"
        url = f"{scheme}://{place.address}{asked.root_path}/"
        print(f"Rivulet starts at {url}", flush=True)
        engine = _engine(asked)
        jobs = Jobs(asked.folder / "jobs")
        with _ends_with(jobs.close), _ends_with(engine.close):  # films first: they have less time
            jobs.start()
            engine.start()
            from app.server.routes import make_app

            app = make_app(
                engine,
                secret=secret,
                root_path=asked.root_path,
                jobs=jobs,
                login=asked.auth,
                hosts=asked.hosts,
                proxies=asked.proxies,
                autostart=asked.autostart,
                perform=asked.perform,
            )
            code = _run(app, place, asked, engine.leave_off, lambda: _say_ready(url, open_browser=asked.open_browser))
    print("Stopped. Films and jobs are in", asked.folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is closed; Python takes seconds to take a loaded model apart, and no watchdog runs meanwhile


def _engine(asked: Serving) -> "LiveEngine | ClusterEngine":
    """What makes the films: this process, or a cluster."""
    from app.live.engine import LiveEngine

    live: dict[str, Any] = {
        "folder": asked.folder,
        "prompt": asked.prompt,
        "seed": asked.seed,
        "keep_seconds": asked.keep_sessions,
        "undo_memory": asked.undo_memory,
        "live_memory": asked.live_memory,
        "live_disk": asked.live_disk,
    }
    if asked.cluster is None:
        return LiveEngine(asked.request, max_sessions=asked.max_sessions, **live)
    from app.cluster.ray_engines import cluster_engine

    return cluster_engine(asked.cluster, asked.request, max_sessions=asked.max_sessions, **live)


def server_config(
    app: "FastAPI", *, log_json: bool = False, ssl_certfile: Path | None = None, ssl_keyfile: Path | None = None
) -> "uvicorn.Config":
    """Return uvicorn's configuration: bounded messages, no compression of JPEGs, no log of addresses with tokens.

    Uvicorn's own reading of proxies' headers, which is on for loopback, is off: app/server/addresses.py does it.
    """
    import uvicorn

    from app.live.picture_header import MAX_PICTURE
    from app.server.logs import log_config
    from app.server.timeouts import HttpConnection, SocketConnection

    return uvicorn.Config(
        app,
        loop="asyncio",  # others accept without asking the door
        http=HttpConnection,
        ws=SocketConnection,
        ws_max_size=MAX_PICTURE,
        ws_per_message_deflate=False,
        proxy_headers=False,
        backlog=BACKLOG,
        log_config=log_config(as_json=log_json),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=FAREWELL_SECONDS,
        ssl_certfile=None if ssl_certfile is None else str(ssl_certfile),
        ssl_keyfile=None if ssl_keyfile is None else str(ssl_keyfile),
    )


def _run(app: "FastAPI", place: Place, asked: Serving, leave_off: Callable[[], None], ready: Callable[[], None]) -> int:
    import uvicorn

    from app.live.heap import settle

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                _end_soon(EXIT_INTERRUPTED if sig == signal.SIGINT else EXIT_TERMINATED, leave_off)
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                settle()
                ready()

    server = Server(
        server_config(app, log_json=asked.log_json, ssl_certfile=asked.ssl_certfile, ssl_keyfile=asked.ssl_keyfile)
    )
    before = signal.signal(signal.SIGTERM, _terminate)  # uvicorn raises the signal again when it has ended
    try:
        server.run(sockets=[place.listener])
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except _Terminated:
        return EXIT_TERMINATED
    finally:
        signal.signal(signal.SIGTERM, before)
    raise UsageMistake("The server did not start; what it said is above. Try another --port.")


def _end_soon(code: int, leave_off: Callable[[], None]) -> None:
    """End the process after LAST_SECONDS: neither a model that loads nor a disk that hangs may keep it.

    All of it on another thread: a signal comes in the middle of anything, also of what holds a lock.
    """

    def end() -> None:
        leave_off()  # who waits for a film does so on a thread that asyncio waits for
        time.sleep(LAST_SECONDS)
        print("Stopped; what was not finished by now is left out.", flush=True)
        os._exit(code)

    Thread(target=end, name="rivulet-end", daemon=True).start()


class _Terminated(BaseException):
    """SIGTERM."""


def _terminate(number: int, at: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def _ends_with(close: Callable[[], object]) -> Generator[None]:
    try:
        yield
    finally:
        close()


def _say_ready(url: str, *, open_browser: bool) -> None:
    print(f"Ready: {url}  (Ctrl-C ends it)", flush=True)
    if open_browser and not webbrowser.open(url):
        print("No browser was found on this machine; open the address in one.", file=sys.stderr)
