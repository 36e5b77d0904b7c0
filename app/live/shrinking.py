"""Out of memory among live films: the model is loaded anew under the next smaller plan, and all films go on.

What the films stand at is kept on the host meanwhile. What is traded is told to everybody who watches, and stands in
the films' logs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from app.errors import explain
from app.live.checkpoint import NotKept, read_checkpoint
from app.live.film import LiveFilm, Studio
from app.live.messages import Problem
from app.live.session import Session
from app.loading.live import Copy, read_copy

_log = logging.getLogger(__name__)


def go_on_smaller(studio: Studio, sessions: Sequence[Session], stuck: Session) -> Exception | None:
    """Have all films go on under the next smaller plan; on the engine thread.

    A film whose plan cannot be smaller ends with what was noted when it got stuck, and the others go on as they are.

    Args:
        studio: with the model.
        sessions: all that are open.
        stuck: the one that ran out of memory.

    Returns:
        Why no film can go on, and none can begin; None: all is well.
    """
    problem, stuck.stuck, held = stuck.stuck, None, studio.model.held
    assert problem is not None
    if held is None or not held.can_shrink:
        _end(stuck, problem)
        return None
    open_films = [session for session in sessions if not session.over]
    for session in open_films:
        failed = session is stuck
        try:
            session.film.set_aside(failed=failed, saved=_saved(session) if failed else None)
        except Exception as error:  # of the host's memory
            _log.exception("a film could not be set aside", extra={"session": session.id})
            _end(session, Problem(message=explain(error)[0], action="Reload the page.", code="memory"))
        session.previews.forget()
    try:
        traded = held.shrink()
    except Exception as error:
        for session in open_films:
            if not session.over:
                _end(session, problem)
        return error
    for session in open_films:
        if not session.over:
            _go_on(session, session.film, traded)
    return None


def _go_on(session: Session, film: LiveFilm, traded: Sequence[str]) -> None:
    seconds = film.go_on() * film.model.chunk_frames / film.model.fps
    back = f" {seconds:.1f} s are made again." if seconds else ""
    what = " and ".join(traded) or "a smaller plan"
    session.audience.tell(
        Problem(
            message=f"The memory was full: the film goes on with {what}.{back}",
            action="A smaller model or size keeps the rest.",
            code="memory",
        )
    )


def _end(session: Session, problem: Problem) -> None:
    session.audience.tell(problem)
    session.end("error")


def _saved(session: Session) -> tuple[int, Copy] | None:
    """The chunk before which the film was last saved, and its state there."""
    try:
        checkpoint = read_checkpoint(session.folder, float("inf"))
        if checkpoint.branch != session.film.branch or checkpoint.chunk > session.film.chunk:
            return None
        return checkpoint.chunk, read_copy(session.folder / checkpoint.state, checkpoint.snapshot)
    except (NotKept, ValueError, OSError):
        return None
