"""Live takes by the name and the token of their session, to be rendered again.

The log of a take lies in its session's folder, so this works while the film plays, when it is parked, and after a
restart of the server.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.errors import UsageMistake
from app.jobs.job import VideoRequest
from app.record.provenance import Provenance, provenance_of_log
from app.record.session_log import LOG, parse_log
from app.server.access import Access
from app.server.restore import request_again
from weights.catalog import MODELS

SessionName = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="As in hello.")]
SessionToken = Annotated[str, Field(max_length=128, description="token or view_token of hello.")]


class WrongToken(UsageMistake):
    """The token does not open the session."""


class NoSuchTake(UsageMistake):
    """The session has left no log."""


class TakeKey(BaseModel):
    """Which live take, and what opens it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: SessionName
    token: SessionToken


class VideoBody(VideoRequest):
    """The body of POST /v1/videos: a request, or a live take in place of its prompt."""

    take: TakeKey | None = Field(None, description="Render a live take again; what else is given here changes it.")


class Takes:
    """The takes in a folder of sessions.

    Args:
        folder: of the sessions, a folder each.
        access: whose tokens count.
        models: names that may be rendered with.
    """

    def __init__(self, folder: Path, access: Access, *, models: Sequence[str] = tuple(MODELS)) -> None:
        self.folder, self.access, self.models = folder, access, models

    def origin(self, session: str, token: str) -> Provenance:
        """What was on screen of a session.

        Raises:
            WrongToken, NoSuchTake: there is nothing to see.
            UsageMistake: nothing was shown yet, or its log is damaged.
        """
        if self.access.opens(session, token) is None:
            raise WrongToken("The token does not fit the session. Copy both from one page.")
        try:
            log = (self.folder / session / LOG).read_bytes()
        except FileNotFoundError:
            raise NoSuchTake("This film has left no log. Let it play first.") from None
        return provenance_of_log(parse_log(log, "this film"), "this film")

    def request(self, body: VideoBody) -> VideoRequest:
        """The body as a request, with the script of its take if it names one.

        Raises:
            UsageMistake: see origin, and what does not go together.
        """
        asked = VideoRequest.model_validate(body.model_dump(exclude={"take"}))
        if body.take is None:
            return asked
        return request_again(self.origin(body.take.session, body.take.token), asked, models=self.models)
