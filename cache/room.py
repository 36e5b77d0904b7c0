"""Whether what stays in a memory leaves room for a chunk: asked by policies, presets and settings alike."""

from __future__ import annotations

from cache.types import Row


def short_of(window: int, chunk: int, *stays: int) -> int:
    """Latent frames that a window lacks for the frames that stay and a chunk beside them; 0 if they fit."""
    return max(0, sum(stays) + chunk - window)


def require_room(window: int, sink: int, *, chunk: int = 1, **others: int) -> None:
    """Raise ValueError unless a window has room for its sink, `others` that stay, and a chunk of so many latent frames.

    Args:
        window: latent frames held at most.
        sink: of these that never leave.
        chunk: frames of a pass, at least.
        others: frames of other kinds that stay, by what they are called.
    """
    if min(sink, *others.values(), 0) < 0 or short_of(window, chunk, sink, *others.values()):
        beside = "".join(f", {count} {kind}" for kind, count in others.items())
        raise ValueError(
            f"a window of {window} latent frames cannot hold a sink of {sink}{beside} and a chunk: "
            f"make the window larger or the {'others' if others else 'sink'} smaller"
        )


def require_leaving(row: Row, excess: int, may_leave: int, window: int) -> None:
    """Raise ValueError if a pass needs more frames gone than may leave."""
    if may_leave < excess:
        raise ValueError(
            f"a pass of {len(row.frames)} latent frames does not fit beside the frames that stay in a window of "
            f"{window}: use shorter chunks or a larger window"
        )
