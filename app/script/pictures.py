"""Pictures that a script names for its film to begin with: a still one, or a clip whose last ones it goes on from.

A film begins once, so they belong to all of it or to its first shot. A name counts from the script's own folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, get_args

from app.config.nodes import Node
from app.config.readers import text
from app.errors import UsageMistake
from app.script.script import PictureKind, Script, ScriptPictures

KINDS: tuple[PictureKind, ...] = get_args(PictureKind)
_READ = text("the name of a file, for example cat.png")


def pictures_of(entries: Sequence[Mapping[str, Node]]) -> ScriptPictures | None:
    """The pictures that a film is to begin with.

    Args:
        entries: of the whole film, and of its shots in order, each with what it holds.

    Raises:
        UsageMistake: another shot than the first names some, or two places do.
    """
    named: list[ScriptPictures] = []
    for index, holder in enumerate(entries):
        for kind in KINDS:
            if kind in holder:
                node = holder[kind]
                if index > 1:
                    not_first(node.place, kind)
                named.append(ScriptPictures(kind, _READ(f"{node.place}: {kind}", node.text()), node.place))
    return one_of_them(named)


def one_of_them(named: Sequence[ScriptPictures]) -> ScriptPictures | None:
    """The one of them, or None.

    Raises:
        UsageMistake: there are two.
    """
    if len(named) > 1:
        raise UsageMistake(
            f"{named[1].place}: a film begins with one picture or clip, and {named[0].place} names one too. "
            "Keep one of them."
        )
    return named[0] if named else None


def not_first(place: str, kind: PictureKind) -> NoReturn:
    """Refuse pictures of a later shot.

    Raises:
        UsageMistake: always.
    """
    what = "a picture" if kind == "image" else "a clip"
    raise UsageMistake(
        f"{place}: only a film's beginning can be {what}. Move {kind} to the first shot, or take it out."
    )


def beside_script(script: Script, path: Path) -> Script:
    """The script with the place of its pictures, whose name counts from the folder of the script's file."""
    pictures = script.pictures
    return (
        script
        if pictures is None
        else replace(script, pictures=replace(pictures, file=str(path.parent / pictures.file)))
    )
