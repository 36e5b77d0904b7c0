"""`rivulet replay --check` says separately what it proved of record, pictures and settings, and passes no lie."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from app.errors import UsageMistake
from app.media.join import join, read_metadata
from app.media.mp4 import FilmWriter
from app.record import sidecar
from app.record.pictures import Undecodable, distance, picture_record, tolerance
from app.record.provenance import film_tags
from app.render.checks import contradiction
from app.render.film_record import find_record
from app.render.replay import replay
from tests import log_lines
from tests.app_doubles import Opener
from tests.media.test_video import decode
from tests.render.test_render import film_request, run

LENGTH = "60f"  # chunks of 9, 12, 12, 12, 12 and 3 frames
FRAMES, CHUNKS = 60, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film with its .json."""
    folder = tmp_path_factory.mktemp("made")
    run(film_request(folder, duration=LENGTH))
    return folder


@pytest.fixture
def film(made: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    for name in ("out.mp4", "out.json"):
        shutil.copy(made / name, tmp_path)
    return tmp_path / "out.mp4"


def check(path: Path, output: Path | None = None) -> tuple[int, dict[str, str], str]:
    """Exit code, the last word on record, pictures and settings, and all that was said."""
    out = io.StringIO()
    code = replay(path, output, check=True, overwrite=True, console=Console(file=out, width=400), opener=Opener())
    words: dict[str, str] = {}
    for line in out.getvalue().splitlines():
        what, colon, told = line.partition(": ")
        if colon and what in ("Record", "Pictures", "Settings"):
            words[what.lower()] = told
    return code, words, out.getvalue()


def told(words: dict[str, str]) -> dict[str, str]:
    return {what: sentence.partition(". ")[0] for what, sentence in words.items()}


PROVEN = dict.fromkeys(("record", "pictures", "settings"), "proven")


def change(film: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Change the .json beside a film."""
    path = film.with_suffix(".json")
    record = json.loads(path.read_text())
    alter(record)
    path.write_text(json.dumps(record))


def refilm(film: Path, pixels: NDArray[np.uint8], tags: dict[str, str] | None = None, crf: int = 18) -> None:
    """Other pictures under this film's metadata."""
    part = film.with_name("x.part.mp4")
    height, width = pixels.shape[1:3]
    writer = FilmWriter(part, height=height, width=width, fps=Fraction(16), crf=crf)
    writer.write(pixels)
    writer.close()
    join([part], film, metadata=tags or {"rivulet": read_metadata(film)["rivulet"]})
    part.unlink()


def test_a_whole_film_is_proven_in_all_three(film: Path) -> None:
    code, words, said = check(film)
    assert (code, told(words)) == (0, PROVEN)
    assert f"all {CHUNKS} chunks, {FRAMES} frames, 2 shots" in words["record"].lower()
    assert "every byte of the file is as it was" in said
    assert "bit for bit" in words["pictures"]
    assert words["settings"] == f"proven. Rendered again, all {CHUNKS} chunks are bit for bit those recorded."
    record = sidecar.read(film.with_suffix(".json"))
    assert record.timing.pictures > 0
    assert record.pictures is not None
    assert (record.pictures.frames, len(record.pictures.chunks)) == (FRAMES, CHUNKS)
    assert record.pictures.decoder.startswith("libavcodec ")


def test_the_metadata_alone_prove_the_same_but_for_what_has_no_hash_there(film: Path) -> None:
    film.with_suffix(".json").unlink()
    code, words, said = check(film)
    assert (code, told(words)) == (0, PROVEN)
    assert "the .json is not there" in words["record"]
    assert "sound and titles have no hash here and are not checked" in said
    tags = json.loads(read_metadata(film)["rivulet"])
    assert set(tags["pictures"]) == {"frames", "sha256", "packets", "layout", "decoder"}


def square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = pixels.copy()
    pixels[30, 8:24, 8:24] = 255 - pixels[30, 8:24, 8:24]
    return pixels


PICTURES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "inverted": lambda pixels: 255 - pixels,
    "another film's": lambda pixels: pixels[::-1],
    "a square in one frame": square,
    "encoded again": lambda pixels: pixels,
    "one frame less": lambda pixels: pixels[:-1],
    "another size": lambda pixels: pixels[:, :, :32],
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("alone", [False, True])
def test_other_pictures_under_a_film_s_metadata_are_told(film: Path, name: str, alone: bool) -> None:
    refilm(film, PICTURES[name](decode(film)))
    if alone:
        film.with_suffix(".json").unlink()
    code, words, said = check(film)
    assert (code, told(words)) == (1, PROVEN | {"pictures": "DOES NOT MATCH"})
    assert "Not the same film: its pictures do not match." in said


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_in_the_picture_data_is_told_with_its_chunk(film: Path, place: float) -> None:
    data = bytearray(film.read_bytes())
    pictures = data.index(b"mdat")
    data[pictures + round((len(data) - pictures) * place)] ^= 1
    film.write_bytes(data)
    code, words, _ = check(film)
    assert (code, told(words)) == (1, PROVEN | {"pictures": "DOES NOT MATCH"})


def times_of(data: bytearray) -> None:
    at = data.index(b"stts") + 12  # every frame lasts half as long
    data[at + 4 : at + 8] = (int.from_bytes(data[at + 4 : at + 8]) // 2).to_bytes(4)


def title_of(data: bytearray) -> None:
    at = data.rindex(b"a red ball", 0, data.index(b"mdat"))
    data[at : at + 10] = b"a red bell"


@pytest.mark.parametrize(("alter", "says"), [(times_of, "at other times"), (title_of, "titles or index")])
def test_what_else_of_the_file_was_changed_is_told(film: Path, alter: Callable[[bytearray], None], says: str) -> None:
    data = bytearray(film.read_bytes())
    alter(data)
    film.write_bytes(data)
    code, words, _ = check(film)
    assert (code, told(words)["pictures"]) == (1, "DOES NOT MATCH")
    assert says in words["pictures"]


def test_a_film_that_cannot_be_read_at_all_is_told_and_its_record_is_still_checked(film: Path) -> None:
    film.write_bytes(film.read_bytes()[:500])
    code, words, said = check(film)
    assert code == 1
    assert told(words)["pictures"] == told(words)["record"] == "DOES NOT MATCH"
    assert told(words)["settings"] == "proven"
    assert "Traceback" not in said


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def alter(record: dict[str, Any]) -> None:
        *path, last = keys
        target: Any = record
        for key in path:
            target = target[key]
        target[last] = to

    return alter


WHOLE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no chunks": (_set("chunks", to=[]), "lists 0 chunks of a film that has 6"),
    "a chunk less": (lambda record: record["chunks"].pop(), "lists 5 chunks of a film that has 6"),
    "a chunk twice": (lambda record: record["chunks"].append(record["chunks"][-1]), "lists 7 chunks"),
    "frames of a chunk": (_set("chunks", 2, "shown", to=11), "the frames of its chunks"),
    "order of chunks": (lambda record: record["chunks"].reverse(), "chunk 0 has another number"),
    "prompt of a chunk": (_set("chunks", 1, "prompt", to="a cow"), "chunk 1 has another prompt than its shot"),
    "status": (_set("status", to="fine"), "status is no status"),
    "ended early": (_set("config", "frames", to=61), "60 of 61 frames"),
    "longer than asked": (_set("config", "frames", to=59), "60 frames of a film of 59"),
    "a day of frames": (_set("film", "frames", to=20_000_000), "20000000 frames of a film of 60"),
    "frame rate": (_set("film", "fps", to=24.0), "24 and 16 frames a second"),
    "length": (_set("film", "seconds", to=99.0), "do not last 99 s"),
    "rate factor": (_set("film", "crf", to=30), "rate factor of 30 and of 18"),
    "enlargement": (_set("film", "scale", to=4), "enlarged 4 times and not 2"),
    "shots": (lambda record: record["shots"].pop(), "its shots are not those of its script"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_record_that_is_not_whole_is_told_and_not_rendered_by(film: Path, name: str) -> None:
    alter, says = WHOLE[name]
    change(film, alter)
    code, words, said = check(film)
    assert code == 1
    assert told(words)["record"] == "DOES NOT MATCH"
    assert says in words["record"]
    assert words["settings"].startswith("not proven. Not rendered again")
    assert "Not the same film: its record" in said
    assert not film.with_name("out-again.mp4").exists()


HASHES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "hash of a chunk": (_set("chunks", 3, "sha256", to="ab" * 32), "the hashes of its chunks"),
    "no hash": (_set("chunks", 3, "sha256", to=""), "is no sha256"),
    "hash of a chunk's pictures": (_set("pictures", "chunks", 1, to="ab" * 32), "hashes of its chunks' pictures"),
    "hash of all pictures": (_set("pictures", "sha256", to="ab" * 32), "hashes of its chunks' pictures"),
    "no pictures": (_set("pictures", to=None), "pictures are missing"),
    "pictures without hashes": (_set("pictures", "sha256", to=""), "pictures have no hash"),
    "the model's checksum": (_set("model", "sha256", to="ab" * 32), "another model.sha256 than its .json"),
    "a version": (_set("versions", "torch", to="1.0"), "another versions.torch"),
    "threads": (_set("config", "threads", to=7), "another config.threads"),
}


@pytest.mark.parametrize("name", HASHES)
def test_a_record_that_contradicts_itself_or_its_film_is_told(film: Path, name: str) -> None:
    alter, says = HASHES[name]
    change(film, alter)
    code, words, _ = check(film)
    assert code == 1
    assert told(words)["record"] == "DOES NOT MATCH"
    assert says in words["record"]
    assert told(words)["settings"] == ("DOES NOT MATCH" if name in ("hash of a chunk", "no hash") else "proven")


def test_the_json_of_another_film_is_told(film: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    run(film_request(tmp_path / "other", "a pink ring", duration=LENGTH))
    shutil.copy(tmp_path / "other" / "out.json", film.with_suffix(".json"))
    code, words, said = check(film)
    assert (code, told(words)["record"]) == (1, "DOES NOT MATCH")
    assert "out.json is of another film than out.mp4" in said
    # And another film under this one's .json.
    shutil.copy(tmp_path / "other" / "out.mp4", film)
    run(film_request(film.parent / "other", duration=LENGTH, overwrite=True))
    shutil.copy(tmp_path / "other" / "out.json", film.with_suffix(".json"))
    assert check(film.with_suffix(".json"))[0] == 1


def test_a_damaged_json_beside_a_film_is_told_and_the_film_speaks_for_itself(film: Path) -> None:
    film.with_suffix(".json").write_text("{}")
    code, words, _ = check(film)
    assert (code, told(words)) == (1, PROVEN | {"record": "DOES NOT MATCH"})
    assert "out.json" in words["record"]


def test_forged_hashes_of_pictures_do_not_help(film: Path) -> None:
    """Pictures, their hashes and the metadata all speak for another film; the settings do not make it."""
    tags = json.loads(read_metadata(film)["rivulet"])
    refilm(film, square(decode(film)))
    shown = [chunk.shown for chunk in sidecar.read(film.with_suffix(".json")).chunks]
    forged = json.loads(picture_record(film, shown).model_dump_json(exclude={"chunks"}))
    pixels = decode(film)
    refilm(film, pixels, {"rivulet": json.dumps(tags | {"pictures": forged})})
    forged = json.loads(picture_record(film, shown).model_dump_json(exclude={"chunks"}))
    refilm(film, pixels, {"rivulet": json.dumps(tags | {"pictures": forged})})
    film.with_suffix(".json").unlink()
    code, words, said = check(film)
    assert "all 60 frames are those recorded" in said.lower()
    assert (code, told(words)) == (1, PROVEN | {"pictures": "DOES NOT MATCH"})
    assert "does not show the frames that its settings make" in words["pictures"]


def old(record: dict[str, Any]) -> None:
    """As the version before wrote it."""
    record["format"] = 3
    del record["pictures"], record["timing"]["pictures"], record["film"]["file_sha256"]


def old_film(film: Path) -> None:
    tags = json.loads(read_metadata(film)["rivulet"])
    del tags["pictures"]
    part = film.with_name("old.mp4")
    join([film], part, metadata={"rivulet": json.dumps(tags | {"format": 3})})
    part.replace(film)
    change(film, old)


def test_a_film_of_the_format_before_is_held_against_the_frames_rendered_again(film: Path) -> None:
    old_film(film)
    code, words, said = check(film)
    assert (code, told(words)) == (0, PROVEN)
    assert "Pictures: not proven. Recorded before pictures had hashes" in said
    assert "the same pictures, bit for bit" in words["pictures"]


@pytest.mark.parametrize(
    ("name", "same"), [("encoded again", True), ("inverted", False), ("a square in one frame", False)]
)
def test_without_hashes_pictures_are_compared_within_a_stated_tolerance(film: Path, name: str, same: bool) -> None:
    old_film(film)
    refilm(film, PICTURES[name](decode(film)), crf=20)
    code, words, _ = check(film)
    assert (code, told(words)["pictures"]) == ((0, "proven") if same else (1, "DOES NOT MATCH"))
    assert "allowed: at least 34 dB in every frame" in words["pictures"]


def test_another_version_of_the_decoder_still_vouches_for_the_packets(film: Path) -> None:
    record = sidecar.read(film.with_suffix(".json"))
    assert record.pictures is not None
    before = record.pictures.model_copy(update={"sha256": "ab" * 32, "decoder": "libavcodec 1.2.3"})
    from app.render.checks import check_pictures

    found = check_pictures(film, record.model_copy(update={"pictures": before}))
    assert found.proven
    assert "packet by packet" in found.sentence
    assert "libavcodec 1.2.3" in found.sentence
    same = before.model_copy(update={"decoder": record.pictures.decoder})
    assert check_pictures(film, record.model_copy(update={"pictures": same})).proven is False


@pytest.mark.parametrize("name", ["out.mp4", "out.json"])
def test_what_is_checked_is_not_written_over(film: Path, name: str) -> None:
    before = film.read_bytes(), film.with_suffix(".json").read_bytes()
    for output in ("out.mp4", "../" + film.parent.name + "/out.mp4"):
        with pytest.raises(UsageMistake, match=r"would take the place of what is checked\. Give another"):
            check(film.with_name(name), film.parent / output)
    assert before == (film.read_bytes(), film.with_suffix(".json").read_bytes())


def test_what_could_not_be_checked_is_said(film: Path) -> None:
    film.unlink()
    code, words, said = check(film.with_suffix(".json"))
    assert (code, told(words)) == (0, PROVEN | {"pictures": "not proven"})
    assert "its pictures could not be checked" in said


def test_a_film_that_ended_early_is_checked_packet_by_packet(tmp_path: Path) -> None:
    import signal

    def stop(index: int) -> None:
        if index == 2:
            signal.raise_signal(signal.SIGTERM)

    run(film_request(tmp_path, duration=LENGTH), Opener(stop))
    record = sidecar.read(tmp_path / "out.json")
    assert record.pictures is not None
    assert (record.pictures.sha256, record.pictures.frames) == ("", 33)
    code, words, said = check(tmp_path / "out.mp4")
    assert (code, told(words)) == (0, PROVEN)
    assert "packet by packet" in said
    refilm(tmp_path / "out.mp4", decode(tmp_path / "out.mp4"))
    assert check(tmp_path / "out.mp4")[0] == 1


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out_%06d.png", "shots/frame_%06d.png"])
def test_pictures_are_checked_as_exactly_as_their_format_allows(tmp_path: Path, name: str) -> None:
    (tmp_path / "shots").mkdir()
    run(replace(film_request(tmp_path, duration="40f"), output=tmp_path / name))
    record = sidecar.sidecar_path(tmp_path / name)
    path = tmp_path / "shots" if "shots" in name else record if "%" in name else tmp_path / name
    code, words, said = check(path)
    assert (code, told(words)) == (0, PROVEN)
    assert "bit for bit" in words["pictures"]
    assert ("every byte of the file" in said) == ("%" not in name)
    pictures = [tmp_path / name] if "%" not in name else sorted((tmp_path / name).parent.glob("*_000007.png"))
    with Image.open(pictures[0]) as picture:
        painted = picture.convert("RGB")
    painted.putpixel((5, 5), (1, 2, 3))
    painted.save(pictures[0])
    code, words, _ = check(path)
    assert (code, told(words)["pictures"]) == (1, "DOES NOT MATCH")


def test_a_record_under_its_former_name_is_found_and_no_other_films(tmp_path: Path) -> None:
    run(replace(film_request(tmp_path, duration="40f"), output=tmp_path / "out.gif"))
    (tmp_path / "out.gif.json").rename(tmp_path / "out.json")
    code, words, _ = check(tmp_path / "out.gif")
    assert (code, told(words)) == (0, PROVEN)
    (tmp_path / "out.gif").rename(tmp_path / "other.gif")
    (tmp_path / "out.json").rename(tmp_path / "other.json")
    with pytest.raises(UsageMistake, match="carries no settings"):
        check(tmp_path / "other.gif")


def test_pictures_rendered_again_into_another_kind_are_not_compared_and_that_is_said(tmp_path: Path) -> None:
    run(replace(film_request(tmp_path, duration="40f"), output=tmp_path / "out.gif"))
    code, words, said = check(tmp_path / "out.gif", tmp_path / "new.mp4")
    assert code == 0
    assert "Pictures: proven. All 40 frames" in said
    assert words["pictures"].startswith("not proven")
    assert "Not compared, for new.mp4 is of another kind" in said


# ------------------------------------------------------------------ live takes


def test_a_recording_is_checked_packet_by_packet_and_its_settings_by_its_log(tmp_path: Path) -> None:
    log = log_lines.save(tmp_path / "s", log_lines.a_log())
    part, film = tmp_path / "x.part.mp4", tmp_path / "recording.mp4"
    writer = FilmWriter(part, height=96, width=96, fps=Fraction(16), scale=4)
    writer.write(np.random.default_rng(1).integers(0, 256, (20, 96, 96, 3), np.uint8))
    writer.close()
    join([part], film, metadata=film_tags(log, part))
    with pytest.raises(UsageMistake, match=r"Give the session\.jsonl"):
        check(film)
    tags = {"rivulet": read_metadata(film)["rivulet"]}
    refilm(film, 255 - decode(film), tags)
    code, words, _ = check(film)
    assert (code, told(words)["pictures"]) == (1, "DOES NOT MATCH")


# ------------------------------------------------------------------ reading back


def test_every_record_of_a_good_film_is_in_order(made: Path) -> None:
    known = find_record(made / "out.mp4")
    assert contradiction(known.record) is None
    assert known.tags is not None
    assert contradiction(known.tags) is None


def test_a_hash_of_decoded_pictures_is_of_the_pictures_and_of_nothing_else(made: Path, tmp_path: Path) -> None:
    film = made / "out.mp4"
    whole, other = picture_record(film, [9, 51]), picture_record(film, [10, 50])
    assert whole.packets == other.packets
    assert whole.sha256 != other.sha256
    frames = decode(film)
    refilm(tmp_path / "again.mp4", frames, {"title": "x"})
    again = picture_record(tmp_path / "again.mp4", [9, 51])
    assert again.chunks != whole.chunks
    assert len(again.chunks) == len(whole.chunks) == 2
    assert picture_record(film, [9, 51], decode=False).packets == whole.packets


def test_a_tolerance_tells_the_next_frame_from_another_encoder(made: Path, tmp_path: Path) -> None:
    frames = decode(made / "out.mp4")
    for name, pixels, crf in (("near", frames, 23), ("late", np.roll(frames, 1, 0), 18), ("exact", frames, 18)):
        refilm(tmp_path / f"{name}.mp4", pixels, {"title": "x"}, crf=crf)
    allowed = tolerance(tmp_path / "near.mp4", 18)
    assert distance(tmp_path / "exact.mp4", tmp_path / "near.mp4", allowed).near
    late = distance(tmp_path / "exact.mp4", tmp_path / "late.mp4", allowed)
    assert (late.near, late.frame) == (False, 0)
    assert distance(tmp_path / "exact.mp4", tmp_path / "exact.mp4", allowed).psnr == float("inf")
    (tmp_path / "no.mp4").write_bytes(b"#EXTM3U\nhttp://127.0.0.1:9/film.ts\n")
    with pytest.raises(Undecodable):
        distance(tmp_path / "exact.mp4", tmp_path / "no.mp4", allowed)
