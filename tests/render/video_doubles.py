"""A stand-in for a model that makes films of videos: it shows what it was handed, and hashes all that led there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.config.lengths import Rhythm
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened
from pipelines.types import Chunk, Controls, pixel_range, prompt_text
from pipelines.video import Shown

HEIGHT, WIDTH, CHUNK = 48, 64, 3


class Echo:
    """A `VideoInput` whose film is the video itself; `before` is called with each chunk's number.

    Its memory is a hash over everything it was handed, so that whoever goes on with other pictures is found out.
    """

    size = (HEIGHT, WIDTH)

    def __init__(self, seed: int, before: Callable[[int], None]) -> None:
        plan = SimpleNamespace(levels=(1000.0, 750.0, 500.0, 250.0), lanes=1, width=CHUNK)
        engine = SimpleNamespace(policies=SimpleNamespace(plan=plan))
        self.stream: Any = SimpleNamespace(state=SimpleNamespace(video=SimpleNamespace(entered=0)), engine=engine)
        self.steps: int | None = None
        self.asked: list[Controls] = []
        self.done, self._memory, self._before = 0, hashlib.sha256(str(seed).encode()), before
        self._seed = seed

    @property
    def wants(self) -> int:
        latents = range(self.done * CHUNK, (self.done + 1) * CHUNK)
        return pixel_range(latents[-1]).stop - pixel_range(latents[0]).start

    def push(self, frames: NDArray[np.uint8], controls: Controls) -> list[Shown]:
        self._before(self.done)
        assert frames.shape[1:] == (HEIGHT, WIDTH, 3)
        assert 1 <= len(frames) <= self.wants
        self.asked.append(controls)
        whole = np.concatenate([frames, np.repeat(frames[-1:], self.wants - len(frames), axis=0)])
        latents = range(self.done * CHUNK, (self.done + 1) * CHUNK)
        pixel = range(pixel_range(latents[0]).start, pixel_range(latents[-1]).stop)
        self._memory = hashlib.sha256(self._memory.digest() + whole.tobytes() + str(controls).encode())
        sha256 = self._memory.hexdigest()
        chunk = Chunk(
            index=self.done,
            epoch=0,
            latent=latents,
            pixel=pixel,
            prompt=prompt_text(controls.prompt),
            pixels=whole,
            sha256=sha256,
            seconds={"model": 0.0},
        )
        video = self.stream.state.video
        self.stream.state.video = SimpleNamespace(entered=video.entered + len(frames))
        self.done += 1
        return [Shown(range(video.entered, video.entered + len(frames)), whole[: len(frames)], chunk)]

    def finish(self, controls: Controls) -> list[Shown]:
        return []

    def save(self, path: Path) -> str:
        path.write_bytes(f"{self.done} {self.stream.state.video.entered} {self._memory.hexdigest()}".encode())
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def restore(self, path: Path, sha256: str) -> None:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ValueError(f"{path} is damaged: make the film again")
        done, entered, memory = path.read_text().split()
        self.done, self.stream.state.video = int(done), SimpleNamespace(entered=int(entered))
        self._memory = _Known(bytes.fromhex(memory))


class _Known:
    """A hash that was read back."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def digest(self) -> bytes:
        return self._digest

    def hexdigest(self) -> str:
        return self._digest.hex()


class EchoOpener:
    """Opens an Echo in the engine's place and remembers it."""

    def __init__(self, before: Callable[[int], None] = lambda index: None) -> None:
        self.before, self.echoes = before, list[Echo]()

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        assert request.video, "the stream was not opened for a video"
        echo = Echo(seed, self.before)
        self.echoes.append(echo)
        return Opened(
            stream=None,  # nothing but the video's way in makes chunks
            rhythm=Rhythm(CHUNK, CHUNK),
            fps=16,
            model="embedded",
            checksum="0" * 64,
            device="cpu",
            threads=1,
            read_prompt=_known,
            memory=lambda: 2**29,
            save=echo.save,
            restore=echo.restore,
            video_input=lambda: echo,
        )


def _known(prompt: str) -> Mapping[str, tuple[str, ...]]:
    return {}
