"""A film of a video shown as it is made, through a virtual camera: no file, no journal, and nothing to resume."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from rich.console import Console

from app.errors import EXIT_FAILURE, EXIT_OK, printable
from app.loading.model import StreamOpener, open_stream
from app.media.mp4 import viewing_scale
from app.media.source import SourceLost
from app.media.virtual_camera import Device, VirtualCamera, open_device
from app.record.request import RenderRequest
from app.render.from_video import made_of_video
from app.render.interrupt import Interrupt
from app.render.judging import read_prompts
from app.script.script import check_script
from app.script.timeline import resolve
from pipelines.types import Controls


def show(
    request: RenderRequest,
    *,
    console: Console,
    opener: StreamOpener = open_stream,
    device: Callable[[int, int, float], Device] = open_device,
) -> int:
    """Show the film until it ends or somebody ends it, and return the exit code.

    Args:
        request: what to show; its output names no file.
        console: where to print.
        opener: loads the model.
        device: opens the virtual camera, given width, height and frames a second.

    Raises:
        UsageMistake: the video or the camera cannot be opened, or the prompts cannot be read.
    """
    check_script(request.script)

    def tell(text: str) -> None:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    with made_of_video(request, opener, tell) as (settled, stream_opener), Interrupt() as interrupt:
        opened = stream_opener(settled.engine, secrets.randbelow(2**31) if settled.seed == -1 else settled.seed)
        read_prompts(settled.script, opened.read_prompt)
        fps = settled.fps or Fraction(opened.fps)
        timeline = resolve(settled.script, length=settled.length, fps=float(fps), rhythm=opened.rhythm)
        controls = [
            Controls(shot.prompt, shot.transition, dict(shot.parameters).get("guidance_scale"))
            for shot in timeline.shots
        ]
        camera: VirtualCamera | None = None
        done = 0
        try:
            for index in range(timeline.chunks):
                if interrupt.asked:
                    break
                pixels = opened.stream.next_chunk(controls[timeline.shot_at(index)]).pixels
                assert pixels is not None  # it was decoded
                scale = settled.scale or viewing_scale(*pixels.shape[1:3])
                shown = pixels[: timeline.frames - done].repeat(scale, axis=1).repeat(scale, axis=2)
                if camera is None:
                    camera = VirtualCamera(device(shown.shape[2], shown.shape[1], float(fps)), fps).__enter__()
                    tell(f"On air as {camera.device.device}, {shown.shape[2]}x{shown.shape[1]}. Ctrl-C ends it.")
                camera.show(np.ascontiguousarray(shown))
                done += len(shown)
        except SourceLost as lost:
            tell(f"{lost}. Plug it in again, and run this again.")
            return EXIT_FAILURE
        finally:
            if camera is not None:
                camera.__exit__(None, None, None)
        return interrupt.code or EXIT_OK
