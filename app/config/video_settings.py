"""Settings of a film that is made of a video: flags of `rivulet v2v`, and keys of its config files."""

from functools import partial

from app.config import readers as read
from app.config.setting import setting

_video = partial(setting, group="Video", section="video", first=True)


class Video:
    """What a film is made of, and how; only where there is a video."""

    input: str | None = _video(
        None,
        "What the film is made of: a file, webcam:0, webcam:NAME, rtsp://..., https://..., screen, screen:2.",
        read.text("a video file, webcam:0, rtsp://..., or screen"),
        written="VIDEO",
        usual="the first word",
        replay="film",
    )
    strength: float = _video(
        0.7,
        "How much of the video is given up to the prompt.",
        read.strength,
        range=(0, 1),
        above=True,
        replay="film",
    )
    latency: str | None = _video(
        None,
        "Of a live source: how old a picture may be when it is made over, such as 400ms; steps are given up.",
        read.latency,
        written="TIME",
        usual="as old as it gets",
    )
    fit: str = _video(
        "crop",
        "Pictures of another shape: crop, pad or stretch.",
        read.one_of(read.FITS, "fit"),
        written="HOW",
        replay="film",
    )
    rotate: int = _video(
        0,
        "Turn the video clockwise by 90, 180 or 270, beside its own rotation.",
        read.quarter_turn,
        unit="degrees",
        replay="film",
    )
    sound: bool = _video(True, "Keep the sound of the video.", read.truth, replay="file")
    side_by_side: str | None = _video(
        None,
        "Write a second film too: video and film beside each other.",
        read.text("a file name such as both.mp4"),
        written="FILE",
    )
