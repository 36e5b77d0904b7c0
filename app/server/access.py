"""Access control: Host allow-list, Origin check, Basic login with a bound on guesses, session tokens.

One gate stands before everything, the page's own routes and its sockets included: Gradio's `auth` would leave the
sockets open, and FastAPI's dependencies the page.
"""

import base64
import binascii
import hmac
import ipaddress
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from app.server.addresses import Proxies, household

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 32 * 2**20
"""Bytes of a request: twice the beginning of a film that is dropped on the page."""
TOO_LONG = f"A request is at most {MAX_BODY // 2**20} MiB long."
ALLOWED, SECONDS = 10, 60.0
"""Wrong passwords that an address may send in so many seconds; then it waits until the first of them is that old."""
ADDRESSES = 4096
"""Addresses kept at a time; the ones that were quiet longest are forgotten first."""
COOKIE = "rivulet_login"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"no-referrer",  # addresses of pictures and files carry a token
    # Of everything but the page, which brings its own (app/server/gradio_shell.py): nothing in it runs.
    b"content-security-policy": b"default-src 'none'; img-src 'self' data:; media-src 'self'; "
    b"style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}


@dataclass(frozen=True, slots=True)
class Access:
    """What opens what.

    Attributes:
        secret: key of every token; the same after a restart, so that sessions can be taken up again.
        login: "user:password" for everything, None for none.
        hosts: names this server answers to besides IP addresses, localhost and the machine's own name.
    """

    secret: bytes = field(repr=False)
    login: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()

    def token(self, session: str, *, view: bool = False) -> str:
        """Return what opens a session, or with `view` what opens it for watching."""
        return self._sign(f"{'view' if view else 'drive'}:{session}")

    def opens(self, session: str, token: str) -> Literal["drive", "view"] | None:
        """Say what `token` allows in this session."""
        if _same(token, self.token(session)):
            return "drive"
        return "view" if _same(token, self.token(session, view=True)) else None

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server.

        Another site's name that resolves to this machine (DNS rebinding) would make a foreign page same-origin; an
        address cannot be rebound.
        """
        name = _hostname(f"//{host}")
        if name in ("localhost", socket.gethostname().lower(), *self.hosts) or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def trusts(self, origin: str, host: str) -> bool:
        """Whether a page at `origin` is ours: served under the name in Host, or under one of `hosts`."""
        try:
            asking = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(asking) and (asking == host.lower() or _hostname(origin) in self.hosts)

    def knows(self, authorization: str, cookie: str) -> bool:
        """Whether the request carries the login, as Basic authentication or as the cookie that one earns."""
        if self.login is None:
            return True
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(encoded.strip(), validate=True)
            except (binascii.Error, ValueError):
                given = b""
            if hmac.compare_digest(given, self.login.encode()):
                return True
        pairs = (pair.strip().partition("=") for pair in cookie.split(";"))
        return any(name == COOKIE and _same(value, self.login_cookie()) for name, _, value in pairs)

    def login_cookie(self) -> str:
        """Return the value that stands for the login: browsers do not send Basic authentication with every socket."""
        return self._sign(f"login:{self.login}")

    def _sign(self, what: str) -> str:
        return hmac.new(self.secret, what.encode(), sha256).hexdigest()


class Guesses:
    """Counts wrong passwords by address.

    Behind a proxy that is not trusted (app/server/addresses.py) all have the proxy's address, so a guesser locks out
    the others too; who is in has a cookie already.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may."""
        recent = [at for at in self._wrong.get(address, ()) if at > self._clock() - SECONDS]
        return 0.0 if len(recent) < ALLOWED else recent[-ALLOWED] + SECONDS - self._clock()

    def wrong(self, address: str) -> None:
        """Note a wrong password."""
        times = [*self._wrong.pop(address, [])[1 - ALLOWED :], self._clock()]
        self._wrong[address] = times
        if len(self._wrong) > ADDRESSES:
            del self._wrong[next(iter(self._wrong))]


class Gate:
    """Middleware around the whole application, sockets included.

    `root_path` is a proxy's sub-path, with which a request arrives or, where the proxy strips it, without. `proxies`
    are those whose word about client, name and scheme counts.
    """

    def __init__(self, app: AsgiApp, access: Access, root_path: str = "", proxies: Proxies | None = None) -> None:
        self.app = app
        self.access = access
        self.root_path = root_path
        self.proxies = proxies or Proxies()
        self.guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self.proxies.settle(scope)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if self.root_path:
            scope["root_path"] = self.root_path
            if not scope["path"].startswith(f"{self.root_path}/"):
                scope["path"] = self.root_path + scope["path"]
        if refusal is None:
            limited = _Limited(receive)
            try:
                await self.app(scope, limited, self._dressed(scope, headers, send))
            except ClientDisconnect:  # whoever asked has gone, or is told to; neither is a mistake of ours
                if limited.had > MAX_BODY:
                    await _refuse(send, 413, TOO_LONG)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1][:120]})  # becomes a 403
        else:
            await _refuse(send, *refusal)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.access.answers_to(host):
            name = _hostname(f"//{host}") or "no name"
            return 421, f"This server does not answer to {name[:80]}. Start it with --allow_host {name[:80]}."
        acts = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if acts and origin is not None and not self.access.trusts(origin, host):
            return 403, "Another site's page asks. Open Rivulet's own page, or start it with --allow_host NAME."
        given, cookie = headers.get("authorization", ""), headers.get("cookie", "")
        guesser = "" if scope.get("client") is None else household(scope["client"][0])
        if given and self.access.login is not None and not self.access.knows("", cookie):
            if wait := self.guesses.wait(guesser):
                return 429, f"Too many wrong passwords came from your address. Try again in {wait:.0f} s."
            if not self.access.knows(given, ""):
                self.guesses.wrong(guesser)
        if not self.access.knows(given, cookie):
            return 401, "A user and a password are needed."
        if not scope["path"].isprintable() or "\ufffd" in scope["path"]:
            return 400, "The address holds bytes that are not text. Write it in UTF-8."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > MAX_BODY:
            return 413, TOO_LONG
        return None

    def _dressed(self, scope: Scope, headers: dict[str, str], send: Send) -> Send:
        extra = list(HEADERS.items())
        if self.access.login is not None and COOKIE not in headers.get("cookie", ""):
            secure = scope["scheme"] in ("https", "wss")
            cookie = f"{COOKIE}={self.access.login_cookie()}; Path=/; HttpOnly; SameSite=Strict"
            extra.append((b"set-cookie", (cookie + ("; Secure" if secure else "")).encode()))

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                named = {name.lower() for name, _ in given}
                message["headers"] = given + [(n, v) for n, v in extra if n == b"set-cookie" or n not in named]
            await send(message)

        return dressed


class _Limited:
    """`receive` with a limit for bodies that do not say their length."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.had = 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.had += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        return {"type": "http.disconnect"} if self.had > MAX_BODY else message


def read_secret(folder: Path) -> bytes:
    """Return the key kept in `folder`, made and readable by its owner alone the first time."""
    path = folder / "secret"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) < 32:
            raise ValueError(f"{path} is damaged. Delete it; sessions from before cannot be taken up again.") from None
        return secret
    with os.fdopen(handle, "wb") as file:
        file.write(secret := os.urandom(32))
    return secret


def host_names(names: Iterable[str]) -> frozenset[str]:
    """Read --allow_host: names, without scheme and port."""
    read = {_hostname(name if "//" in name else f"//{name}") for name in names}
    if "" in read:
        raise ValueError("--allow_host is a name such as films.example.org.")
    return frozenset(read)


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS.items()]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Rivulet", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
