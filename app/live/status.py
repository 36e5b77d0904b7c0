"""Status of a session: the messages it sends about itself, and the checkpoint that says where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from app.errors import explain, out_of_memory
from app.live.checkpoint import Checkpoint
from app.live.film import Refused
from app.live.messages import (
    Accepted,
    Hello,
    LookUp,
    Metrics,
    Problem,
    PromptUpdate,
    QueueState,
    SavingState,
    Settings,
    Track,
    Words,
)
from app.live.prompts import respelled
from app.live.recording import Ended

if TYPE_CHECKING:
    from app.live.audience import Audience
    from app.live.film import LiveFilm, Studio
    from app.live.messages import State
    from app.live.pacing import Pace
    from app.live.player import Player, Viewer
    from app.live.prompts import PromptSchedule


class Session(Protocol):
    """What of a session (app/live/session.py) there is to tell."""

    id: str
    studio: Studio
    fps: float
    width: int
    height: int
    state: State
    epoch: int
    player: Player
    schedule: PromptSchedule
    film: LiveFilm
    pace: Pace
    audience: Audience


NO_WAY_BACK = Problem(
    message="There is no way back: nothing was shown yet, or a copy of the film takes too much memory.",
    action="Choose a smaller model or size.",
    code="undo",
)


BRANCH_GONE = Problem(
    message="This branch is gone: its place in memory was needed, or the film was opened anew since.",
    action="Choose another one.",
    code="undo",
)


def hello(session: Session, viewer: Viewer) -> Hello:
    """What a viewer has to know first; the server adds the tokens."""
    model, controls = session.studio.model, session.schedule.controls
    single = isinstance(controls.prompt, tuple) and len(controls.prompt) == 1
    prompt = respelled(controls.prompt) if single else controls.prompt
    return Hello(
        session=session.id,
        role="driver" if viewer.driver else "viewer",
        fps=session.fps,
        width=session.width,
        height=session.height,
        prompt=prompt if isinstance(prompt, str) else list(prompt),
        seed=controls.seed,
        preset=model.preset,
        model=model.name,
        chunk_frames=model.chunk_frames,
        beginning_frames=model.clip_frames,
        paused=session.state == "paused",
        queue=list(session.schedule.queue),
        settings=_settings_of(session),
        knows={name: list(words) for name, words in model.text.knows.items()},
    )


def metrics(session: Session, now: float) -> Metrics:
    """How it goes; who is told adds how many frames it missed."""
    player, pace = session.player, session.pace
    chunk_seconds, rate = pace.chunk_seconds, pace.rate
    return Metrics(
        fps=player.fps_shown(now),
        prompt_ms=player.prompt_ms,
        chunk_ms=None if chunk_seconds is None else round(chunk_seconds * 1000, 1),
        rate=None if rate is None else round(rate, 3),
        drift=player.drift,
        reused=None if player.reused is None else round(player.reused, 3),
        memory=session.studio.model.memory() if player.viewers else 0,
        frame=max(0, player.frame),
        t=max(0, player.frame) / session.fps,
        viewers=len(player.viewers),
        state=session.state,
        recording=player.recorder.recording,
    )


def words(session: Session, message: LookUp) -> Words:
    """The unknown words of a text that is being written."""
    return Words(id=message.id, unknown=session.studio.spelling.unknown(message.prompt))


def accepted(session: Session, message: PromptUpdate, chunk: int, wait: float) -> Accepted:
    """That a prompt begins with `chunk`, in about `wait` seconds, and which of its words the model does not know."""
    unknown, instead = session.studio.spelling.answer(message.of_engine())
    seconds = round(wait, 3)
    return Accepted(
        id=message.id, chunk=chunk, at=time.time() + wait, seconds=seconds, unknown=unknown, instead=instead
    )


def queue(session: Session) -> QueueState:
    """The prompts that wait."""
    return QueueState(items=list(session.schedule.queue))


def track(session: Session) -> Track:
    """What was shown under which prompt, is and will be."""
    film = session.film
    return Track(branch=film.branch, spans=session.schedule.spans(), branches=film.branches.told(session.fps))


def saving(trouble: str | None) -> SavingState:
    """Whether the film is being saved; `trouble` is why it is not."""
    return SavingState(on=trouble is None, message=trouble or "The film is being saved again.")


def no_preview(error: ValueError) -> Problem:
    """That a prompt cannot be previewed."""
    return Problem(message=str(error), code="audition")


def slow(session: Session) -> Problem:
    """That the film is made more slowly than it plays, and what helps."""
    frames = max(1, round(session.fps * (session.pace.rate or 0.0)))
    several = "num_inference_steps" in session.studio.model.knobs
    return Problem(
        message=f"This machine makes {frames} of the film's {session.fps:g} frames a second.",
        action="Take fewer steps." if several else "Choose a smaller model.",
        code="slow",
    )


def ended(ended: Ended, unwatched: float) -> Problem:
    """That a recording ended without having been asked to; nobody took a frame for `unwatched` seconds."""
    reasons = {"unwatched": f"Nobody watched for {unwatched / 60:g} minutes."}
    why = ended.why or reasons.get(ended.ended, "")
    message = f"The recording {ended.name} ended with {ended.frames} frames. {why}".strip()
    action = "What was recorded is saved." if ended.frames else "There is no file of it."
    return Problem(message=message, action=action, code="recording")


def gap(why: str) -> Problem:
    """That the session log has a gap from here on."""
    return Problem(message=why, action="Reset begins a new log.", code="disk")


def refused(error: Refused) -> Problem:
    """That the model could not do what was asked."""
    name = error.receipts[-1].id if error.receipts else ""
    return Problem(message=explain(error)[0], action="The film goes on as it was.", code="refused", id=name)


def failed(error: Exception) -> Problem:
    """That the film has come to its end."""
    code = "memory" if out_of_memory(error) else "engine"
    return Problem(message=explain(error)[0], action="Reload the page to begin another film.", code=code)


def checkpoint(session: Session, *, running: bool) -> Callable[[str, str], Checkpoint]:
    """Where the film stands now, for the name of the state's file and its sha256."""
    model, film, player = session.studio.model, session.film, session.player
    chunk, branch, schedule = film.chunk, film.branch, session.schedule.written()
    missed = session.audience.missed
    at, paused, epoch, seq, frame = time.time(), session.state == "paused", session.epoch, player.seq, player.frame

    def described(state: str, sha256: str) -> Checkpoint:
        return Checkpoint(
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
            course=schedule,
            missed=missed,
        )

    return described


def _settings_of(session: Session) -> Settings:
    controls = session.schedule.controls
    values: dict[str, Any] = {**session.studio.model.knobs, **dict(controls.knobs)}
    if controls.guidance_scale is not None:
        values["guidance_scale"] = controls.guidance_scale
    values |= {"refresh_on_drift": session.schedule.refresh_on_drift, "jpeg_quality": session.player.quality}
    return Settings.of(values)
