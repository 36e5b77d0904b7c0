"""What a film of a live session carries, so that dropping it on the page brings the session back."""

import logging
from pathlib import Path

from app.errors import UsageMistake
from app.record.pictures import picture_record
from app.record.provenance import record_of_log
from app.record.session_log import SessionLog, read_log
from app.record.sidecar import PictureRecord, carried
from pipelines.types import in_words

_log = logging.getLogger(__name__)


def tags_of(log: SessionLog, source: str, pictures: PictureRecord | None = None) -> dict[str, str]:
    """Metadata of a film of this session, whose pictures are these.

    Raises:
        UsageMistake: the log is damaged.
    """
    record = record_of_log(log, source).model_copy(update={"pictures": pictures})
    return {
        "title": in_words(log.chunks[-1].controls.prompt),
        "comment": f"Rivulet live, preset {record.config.preset}, seed {record.seed}",
        "rivulet": carried(record),
    }


def film_tags(log: Path, film: Path | None = None) -> dict[str, str]:
    """Metadata of a film that is saved while it plays: of all that its log holds so far, and the hash of its pictures.

    They are hashed as they are coded: to decode an hour of them would take the film that plays its time.

    A recording is worth more than what it carries, so one whose log cannot be read carries nothing.
    """
    try:
        pictures = None if film is None else picture_record(film, [], decode=False)
        return tags_of(read_log(log), str(log), pictures)
    except (UsageMistake, ValueError, OSError) as error:
        _log.warning("a film was saved without its settings: %s", error)
        return {}
