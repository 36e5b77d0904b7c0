"""OpenCV, imported where it is needed: a missing library of the system is told with the package that brings it."""

from __future__ import annotations

import os
from types import ModuleType

from app.errors import UsageMistake


def import_opencv() -> ModuleType:
    """The module `cv2`, with its own complaints about devices and streams turned off.

    Raises:
        UsageMistake: it is not installed, or a library of the system that it needs is missing.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet; read when a stream is opened
    try:
        import cv2
    except ImportError as error:
        if "lib" in str(error) and ".so" in str(error):
            raise UsageMistake(
                f"Cameras and network streams are read with OpenCV, which lacks a library here ({error}). Install it "
                "(Debian, Ubuntu: apt install libgl1 libglib2.0-0), or pip install opencv-python-headless instead of "
                "opencv-python."
            ) from None
        raise UsageMistake(
            "Cameras and network streams are read with OpenCV, which is not installed. Run pip install opencv-python."
        ) from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
