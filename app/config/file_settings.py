"""Settings of the files that a render writes beside and around its frames, a part of the table of settings."""

from functools import partial

from app.config import readers as read
from app.config.setting import setting

_file = partial(setting, group="Files", section="output")


class Files:
    """What is written, and what stands in it."""

    output: str | None = _file(
        None,
        "The film: .mp4, .gif, .webp or a folder.",
        read.text("a file name such as out.mp4"),
        written="FILE|FOLDER",
        usual="out.mp4",
        aliases=("output_path", "output_folder", "output_dir", "save_result_path"),
        section="output.path",
        short="-o",
        first=True,
    )
    report: str | None = _file(
        None, "Write an .html page about the render.", read.text("a file name such as report.html"), written="FILE"
    )
    audio: str | None = _file(None, "Sound for the film.", read.text("the name of a sound file"), written="FILE")
    metadata: bool = _file(
        True,
        "Without: the .mp4 tells no prompt, seed or setting, and its chapters are numbers. The .json and .vtt beside "
        "it still do.",
        read.truth,
    )
    subtitles: bool = _file(True, "Without: no .vtt, which holds the prompts.", read.truth)
    sidecar: bool = _file(
        True,
        "Without: no .json, which holds prompts, seed and settings; nothing can then prove the film.",
        read.truth,
    )
