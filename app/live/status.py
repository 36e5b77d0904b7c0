"""What a live film tells of itself: all of it to who comes, and how it goes to who watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from app.errors import explain, out_of_memory
from app.live.checkpoint import Parked
from app.live.film import Refused
from app.live.messages import Hello, Metrics, Problem, Settings
from app.live.prompts import respelled
from app.live.recording import Ended

if TYPE_CHECKING:
    from app.live.audience import Audience
    from app.live.film import LiveFilm, Studio
    from app.live.messages import State
    from app.live.pacing import Pace
    from app.live.player import Screen, Viewer
    from app.live.prompts import Course


class Session(Protocol):
    """What of a session (app/live/session.py) there is to tell."""

    id: str
    studio: Studio
    fps: float
    width: int
    height: int
    state: State
    epoch: int
    screen: Screen
    course: Course
    film: LiveFilm
    pace: Pace
    audience: Audience


NO_WAY_BACK = Problem(
    message="There is no way back: nothing was shown yet, or a copy of the film takes too much memory.",
    action="Choose a smaller model or size.",
    code="undo",
)


def hello_of(session: Session, viewer: Viewer) -> Hello:
    """What a viewer has to know first; the server adds the tokens."""
    model, moment = session.studio.model, session.course.moment
    single = isinstance(moment.prompt, tuple) and len(moment.prompt) == 1
    prompt = respelled(moment.prompt) if single else moment.prompt
    return Hello(
        session=session.id,
        role="driver" if viewer.driver else "viewer",
        fps=session.fps,
        width=session.width,
        height=session.height,
        prompt=prompt if isinstance(prompt, str) else list(prompt),
        seed=moment.seed,
        preset=model.preset,
        model=model.name,
        chunk_frames=model.chunk_frames,
        paused=session.state == "paused",
        queue=list(session.course.queue),
        settings=_settings_of(session),
    )


def metrics_of(session: Session, now: float) -> Metrics:
    """How it goes; who is told adds how many frames it missed."""
    screen, pace = session.screen, session.pace
    chunk_seconds, rate = pace.chunk_seconds, pace.rate
    return Metrics(
        fps=screen.fps_shown(now),
        prompt_ms=screen.prompt_ms,
        chunk_ms=None if chunk_seconds is None else round(chunk_seconds * 1000, 1),
        rate=None if rate is None else round(rate, 3),
        drift=screen.drift,
        memory=session.studio.model.memory() if screen.viewers else 0,
        frame=max(0, screen.frame),
        t=max(0, screen.frame) / session.fps,
        viewers=len(screen.viewers),
        state=session.state,
        recording=screen.recorder.recording,
    )


def slow_of(session: Session) -> Problem:
    """That the film is made more slowly than it plays, and what helps."""
    frames = max(1, round(session.fps * (session.pace.rate or 0.0)))
    several = "num_inference_steps" in session.studio.model.knobs
    return Problem(
        message=f"This machine makes {frames} of the film's {session.fps:g} frames a second.",
        action="Take fewer steps." if several else "Choose a smaller model.",
        code="slow",
    )


def ended_of(ended: Ended, unwatched: float) -> Problem:
    """That a recording ended without having been asked to; nobody took a frame for `unwatched` seconds."""
    reasons = {"unwatched": f"Nobody watched for {unwatched / 60:g} minutes."}
    why = ended.why or reasons.get(ended.ended, "")
    message = f"The recording {ended.name} ended with {ended.frames} frames. {why}".strip()
    action = "What was recorded is saved." if ended.frames else "There is no file of it."
    return Problem(message=message, action=action, code="recording")


def refused_of(error: Refused) -> Problem:
    """That the model could not do what was asked."""
    name = error.receipts[-1].id if error.receipts else ""
    return Problem(message=explain(error)[0], action="The film goes on as it was.", code="refused", id=name)


def failed_of(error: Exception) -> Problem:
    """That the film has come to its end."""
    code = "memory" if out_of_memory(error) else "engine"
    return Problem(message=explain(error)[0], action="Reload the page to begin another film.", code=code)


def place_of(session: Session, *, running: bool) -> Callable[[str, str], Parked]:
    """Where the film stands now, for the name of the state's file and its sha256."""
    model, film, screen = session.studio.model, session.film, session.screen
    chunk, branch, course = film.chunk, film.branch, session.course.written()
    missed = session.audience.missed
    at, paused, epoch, seq, frame = time.time(), session.state == "paused", session.epoch, screen.seq, screen.frame

    def place(state: str, sha256: str) -> Parked:
        return Parked(
            at=at,
            checksum=model.checksum,
            preset=model.preset,
            state=state,
            snapshot=sha256,
            running=running,
            paused=paused,
            chunk=chunk,
            branch=branch,
            epoch=epoch,
            seq=seq,
            frame=max(0, frame),
            course=course,
            missed=missed,
        )

    return place


def _settings_of(session: Session) -> Settings:
    moment = session.course.moment
    values: dict[str, Any] = {**session.studio.model.knobs, **dict(moment.knobs)}
    if moment.guidance_scale is not None:
        values["guidance_scale"] = moment.guidance_scale
    values |= {"refresh_on_drift": session.course.refresh_on_drift, "jpeg_quality": session.screen.quality}
    return Settings.of(values)
