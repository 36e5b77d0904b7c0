"""Visits of a flood: films that are opened, watched for a moment and left, one after another."""

# pyright: reportUnknownMemberType=false
# (websockets' connect is typed loosely.)

from __future__ import annotations

import asyncio
import json
import sys
import time
from statistics import median
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.live.frame_header import unpack_frame

FRAMES = 12
"""Watched of each film: beyond its first chunk, so that there is something to keep."""
PATIENCE = 60.0
"""Seconds that a visitor waits for the film; who left before keeps a place for some."""


async def visit(url: str) -> float | None:
    """Open a film, watch it and leave; seconds until it began, None if it did not."""
    begun = time.monotonic()
    first: float | None = None
    frames = 0
    try:
        async with asyncio.timeout(PATIENCE), connect(url, max_size=None, compression=None) as socket:
            async for message in socket:
                if isinstance(message, bytes):
                    first = first or time.monotonic() - begun
                    frames += 1
                    if frames >= FRAMES:
                        return first
                    await socket.send(json.dumps({"type": "ack", "seq": unpack_frame(message)[0].seq}))
    except (TimeoutError, OSError, WebSocketException):
        return None
    return None


async def visits(url: str, count: int) -> dict[str, Any]:
    """So many of them; how many began, and when."""
    address = f"{url.replace('http', 'ws', 1)}v1/realtime/video"
    waits = [await visit(address) for _ in range(count)]
    began = [wait for wait in waits if wait is not None]
    return {
        "asked": count,
        "opened": len(began),
        "first_frame_s_median": round(median(began), 2) if began else None,
        "first_frame_s_max": round(max(began), 2) if began else None,
    }


if __name__ == "__main__":
    print("here", flush=True)  # from now on it is measured
    print(json.dumps(asyncio.run(visits(sys.argv[1], int(sys.argv[2])))))
