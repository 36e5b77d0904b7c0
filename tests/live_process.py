"""A live server over the tiny networks as a process of its own, for tests that kill it: folder and port are given."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn

from app.live.engine import LiveEngine
from app.server.main import find_place, server_config
from app.server.routes import make_app
from tests.live_doubles import SECRET
from tests.live_tiny import Clock, TinyModel


def main(folder: Path) -> None:
    """Serve until a signal comes."""
    model = TinyModel(Clock())
    model.chunk_seconds = 0.0
    request: Any = SimpleNamespace()
    engine = LiveEngine(request, folder=folder, prompt="a red fox runs", seed=5, opener=model)
    engine.start()
    place = find_place("127.0.0.1", 0)
    sys.stdout.write(f"{place.address}\n")
    sys.stdout.flush()
    uvicorn.Server(server_config(make_app(engine, secret=SECRET, page=False))).run(sockets=[place.listener])
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
