"""Pictures and clips that are sent for render jobs to begin with: kept by their bytes, copied into the job, bounded."""

from __future__ import annotations

import errno
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.errors import UsageMistake
from app.jobs import uploads as uploading
from app.jobs.job import BEGINNING, VideoRequest, new_job, render_words
from app.jobs.queue import Jobs
from app.jobs.uploads import Uploads
from app.server.jobs_api import beginnings_router
from tests.jobs.test_jobs import renderer
from tests.media.clips import write_clip


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_an_upload_is_kept_by_its_bytes_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "MOST", 3)
    uploads = Uploads(tmp_path / "beginnings")
    first = uploads.keep(png(1))
    assert uploads.keep(png(1)) == first
    assert first.id.startswith("image-")
    clip = uploads.keep(write_clip(tmp_path / "in.mp4", 5).read_bytes())
    assert (clip.kind, clip.id[:7]) == ("extend", "extend-")
    assert uploads.keep(write_clip(tmp_path / "in.webm", 5, codec="libvpx").read_bytes()).kind == "extend"
    assert len(list((tmp_path / "beginnings").iterdir())) == 3
    for level in range(2, 5):
        newest = uploads.keep(png(level))
    assert len(list((tmp_path / "beginnings").iterdir())) == 3
    assert uploads.of(VideoRequest(prompt="a", beginning=newest.id)) is not None
    with pytest.raises(UsageMistake, match="Send the picture or clip again"):
        uploads.of(VideoRequest(prompt="a", beginning=clip.id))
    for wrong in (b"", b"GIF89a", b"#!/bin/sh", b"{}"):
        with pytest.raises(UsageMistake, match="neither a picture nor a video"):
            uploads.keep(wrong)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "image-1", f"image-{'0' * 63}/", f"audio-{'0' * 64}"])
def test_a_beginning_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="beginning"):
        VideoRequest(prompt="a", beginning=name)


def test_an_upload_that_the_disk_does_not_take_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        Uploads(tmp_path / "beginnings").keep(png(1))
    assert not [*(tmp_path / "beginnings").iterdir()]


def test_a_job_gets_a_copy_and_its_render_the_flag(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path))
    sent = jobs.uploads.keep(png(7))
    asked = VideoRequest(prompt="a red ball", beginning=sent.id)
    job = jobs.create(asked)
    assert (tmp_path / "jobs" / job.id / BEGINNING).read_bytes() == png(7)
    assert f"--image={BEGINNING}" in render_words(asked)
    assert f"--extend={BEGINNING}" in render_words(VideoRequest(prompt="a", beginning=f"extend-{'0' * 64}"))
    gone = VideoRequest(prompt="a red ball", beginning=f"image-{'0' * 64}")
    with pytest.raises(UsageMistake, match="not here any more"):
        jobs.add(new_job("video_000000000000000000000000", gone, models=("embedded",)))
    assert len(jobs.list()) == 1
    damaged = jobs.uploads.keep(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(UsageMistake, match=f"{BEGINNING} cannot be read as a picture"):
        jobs.measure(VideoRequest(prompt="a red ball", beginning=damaged.id), threading.Event())
    jobs.close()


def test_a_beginning_is_sent_over_http(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(beginnings_router(Uploads(tmp_path / "beginnings")))
    with TestClient(app) as client:
        answer = client.post("/v1/beginnings", content=png(9))
        assert (answer.status_code, answer.json()["kind"]) == (201, "image")
        VideoRequest(prompt="a", beginning=answer.json()["id"])
        refused = client.post("/v1/beginnings", content=b"no picture")
        assert refused.status_code == 400
        assert "neither a picture nor a video" in refused.json()["error"]["message"]
