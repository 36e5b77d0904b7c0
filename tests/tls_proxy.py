"""A reverse proxy in small: it ends TLS, shows a server below a path, and passes all on, sockets included."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    paths = folder / "cert.pem", folder / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ("-out", str(paths[0]), "-keyout", str(paths[1]), "-days", "2")
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return paths


class Proxy:
    """Shows `upstream` (host:port) below `prefix`, which it strips or leaves; `asked` are the paths it was asked."""

    def __init__(self, upstream: str, prefix: str, *, strip: bool) -> None:
        self.upstream, self.prefix, self.strip = upstream.rpartition(":"), prefix, strip
        self.asked: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError), closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            method, path, version = head[0].split(" ")
            self.asked.append(path)
            if not path.startswith(f"{self.prefix}/"):
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            upgrade = any(line.lower().startswith("upgrade:") for line in head)
            path = path.removeprefix(self.prefix) if self.strip else path
            lines = [f"{method} {path} {version}", "X-Forwarded-Proto: https"]
            lines += [line for line in head[1:] if upgrade or not line.lower().startswith("connection:")]
            lines += [] if upgrade else ["Connection: close"]  # a request a connection: only the first head is read
            up_reader, up_writer = await asyncio.open_connection(self.upstream[0], int(self.upstream[2]))
            with closing(up_writer):
                up_writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                ways = {asyncio.create_task(_pipe(reader, up_writer)), asyncio.create_task(_pipe(up_reader, writer))}
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@contextmanager
def proxied(upstream: str, prefix: str, folder: Path, *, strip: bool) -> Iterator[tuple[str, Proxy]]:
    """Run it on a thread of its own; gives the address of what it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder))
    proxy = Proxy(upstream, prefix, strip=strip)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(proxy, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(5)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}/", proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
