"""Record of a film that is found again: its own metadata, and the .json beside it."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import UsageMistake, printable, shorten, shorten_path
from app.media.join import read_metadata
from app.media.stills import sink_kind
from app.record import sidecar
from app.record.sidecar import Carried

_PICTURE = "frame_%06d.png"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a film.

    Attributes:
        record: the fullest record that is of this film.
        tags: what the film itself carries; None for pictures, which carry nothing, or if it cannot be read.
        film: the film or the pattern of its pictures; None if there is none.
        trouble: why a record that lies there is not used, as a sentence without its end; "" if all is well.
    """

    record: Carried
    tags: Carried | None
    film: Path | None
    trouble: str = ""


def find_record(path: Path) -> Known:
    """Read what is known of a film: an .mp4, .gif or .webp, a folder of PNGs, or the .json beside one of them.

    Raises:
        UsageMistake: it is not one of ours, or is from another version.
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".json":
        return _of_sidecar(path)
    if path.is_dir() or path.suffix.lower() in (".gif", ".webp", ".png"):
        film = path / _PICTURE if path.is_dir() else path
        beside = sidecar.sidecar_path(film)
        former = film.with_suffix(".json")  # what the record of such a film was called up to format 3
        if not beside.is_file() and former.is_file() and sidecar.read(former).film.file == film.name:
            beside = former
        if not beside.is_file():
            raise UsageMistake(
                f"{_shown(path)} carries no settings, and there is no {beside.name} beside it. Give that .json."
            )
        return Known(sidecar.read(beside), None, film)
    if not path.is_file():
        raise UsageMistake(f"{_shown(path)} is not an ordinary file. Give a film that rivulet render made.")
    return _of_film(path)


def _of_sidecar(path: Path) -> Known:
    record = sidecar.read(path)
    film = _film_of(path, record)
    if film is None or sink_kind(film) != "mp4":
        return Known(record, None, film)
    try:
        tags = _tags(film)
    except UsageMistake as mistake:
        return Known(record, None, film, _clause(mistake))
    return Known(record, tags, film)


def _of_film(path: Path) -> Known:
    beside = sidecar.sidecar_path(path)
    known, tags, trouble = None, None, ""
    try:
        known = sidecar.read(beside)
    except FileNotFoundError:
        pass
    except UsageMistake as mistake:
        trouble = _clause(mistake)
    except OSError as error:
        trouble = f"{beside.name} cannot be read ({error.strerror})"
    try:
        tags = _tags(path)
    except UsageMistake as mistake:
        if known is None:
            raise
        return Known(known, None, path, _clause(mistake))
    if tags is None:
        if known is None:
            raise UsageMistake(
                f"{_shown(path)} carries no settings of Rivulet. Give a film that rivulet render made, or its .json."
            )
        return Known(known, None, path, f"{_shown(path)} carries no settings of Rivulet any more")
    if known is None:
        return Known(tags, tags, path, trouble)
    if known.film.sha256 != tags.film.sha256:
        return Known(tags, tags, path, f"{beside.name} is of another film than {path.name}, going by its metadata")
    return Known(known, tags, path, trouble)


def _film_of(path: Path, record: sidecar.Sidecar) -> Path | None:
    """The film that lies beside its .json: under the name it had, or under the .json's own."""
    name = record.film.file
    ending = Path(name).suffix.lower()
    plain = bool(name) and "\0" not in name and Path(name).name == name and ending in (".mp4", ".gif", ".webp", ".png")
    for film in (path.with_name(name) if plain else None, path.with_suffix(ending if plain else ".mp4")):
        if film is None or (film.suffix.lower() == ".png") != ("%" in film.name):
            continue
        try:
            if film.is_file() or (sink_kind(film) == "png" and film.parent.is_dir()):
                return film
        except (UsageMistake, OSError):  # a name that nothing of ours has
            continue
    return None


def _tags(film: Path) -> Carried | None:
    """What a film itself carries; None if that is nothing of ours."""
    try:
        told = read_metadata(film).get("rivulet")
    except ValueError as error:
        raise UsageMistake(str(error)) from error
    return None if told is None else sidecar.read_carried(told, f"{film} (its metadata)")


def _clause(mistake: UsageMistake) -> str:
    """A refusal without what is to be done, which is another thing here."""
    return shorten(printable(str(mistake)).partition(". ")[0].rstrip("."), 300)


def _shown(path: Path) -> str:
    return printable(shorten_path(path))
