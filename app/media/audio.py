"""Sound of a film: any file PyAV reads, as AAC of exactly the film's length.

The film ends when its last frame does, not when the song does, so sound is cut or padded with silence; it is
made as the film is muxed, a second at a time, so an hour of it takes no memory.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import UsageMistake

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

RATE = 48_000
_FRAME = 1024
"""Samples in a frame of AAC."""
_BIT_RATE = 192_000
_APART = RATE // 50
"""Samples by which sound may be off its time before it is put right: 20 ms, which nobody sees."""
_SILENT = 1e-4
"""Amplitude (of 1) below which sound is silence: -80 dB, under the dither of a 16-bit file."""


def check_audio(path: Path) -> None:
    """Refuse, before a film is rendered for it, a file that cannot become its sound.

    Reads up to the first audible sample, so a song is accepted at once and only silence is read whole.

    Raises:
        UsageMistake: the file is missing, unreadable, without sound, or silent throughout.
    """
    from av.error import FFmpegError

    other = "Give another file with --audio, for example a .wav, .mp3, .flac or .m4a."
    if "\0" in str(path):
        raise UsageMistake("The name of the audio file holds a NUL byte. Give an ordinary file name.")
    if not path.exists():
        raise UsageMistake(f"There is no audio file {path}. {other}")
    if path.is_dir():
        raise UsageMistake(f"{path} is a folder, not sound. {other}")
    heard = False
    try:
        with _open(path) as container:
            if not container.streams.audio:
                raise UsageMistake(f"{path} holds no sound. {other}")
            for frame in _samples(container):
                heard = True
                if abs(frame.to_ndarray()).max() > _SILENT:
                    return
    except PermissionError as error:
        raise UsageMistake(f"{path} may not be read. Change its permissions, or give another file.") from error
    except (FFmpegError, OSError, IndexError) as error:
        raise UsageMistake(f"{path} cannot be read as sound. {other}") from error
    what = "is silent from beginning to end" if heard else "holds a sound track with nothing in it"
    raise UsageMistake(f"{path} {what}. {other}")


class Soundtrack:
    """Feeds the sound of `path` into `target` beside the pictures.

    `until` before each picture's packet keeps the two interleaved; `finish` settles the length and says how.

    Args:
        path: of the sound.
        target: what it goes into.
        begin: the moment of the file's own clock, in seconds, at which the film begins: every sample is then heard at
            its own time, with silence where there is none. None begins with the first sample, whatever its time.
    """

    def __init__(self, path: Path, target: OutputContainer, *, begin: Fraction | None = None) -> None:
        from av.audio.fifo import AudioFifo

        self.path = path
        self._target = target
        self._source = _open(path)
        self._decoded = _samples(self._source) if begin is None else _timed_samples(self._source, begin)
        self._stream = target.add_stream("aac", rate=RATE, layout="stereo")
        self._stream.bit_rate = _BIT_RATE
        self._fifo = AudioFifo()
        self._sent = self._read = 0
        self._ended = False

    def until(self, second: Fraction) -> None:
        """Mux the sound up to a moment of the film."""
        self._send(int(second * RATE) // _FRAME * _FRAME)

    def finish(self, seconds: Fraction) -> str:
        """Mux the rest of the sound of a film of `seconds`, and return a sentence if it is not as long."""
        total = round(seconds * RATE)
        self._send(total)
        cut = self._fifo.samples > 0 or (not self._ended and next(self._decoded, None) is not None)
        self._target.mux(self._stream.encode(None))
        silence = total - self._read
        if cut:
            return f"The sound of {self.path.name} is longer than the film and was cut at {float(seconds):.2f} s."
        if silence > 0:
            return (
                f"The sound of {self.path.name} ends at {self._read / RATE:.2f} s; the last {silence / RATE:.2f} s "
                "of the film are silent."
            )
        return f"The sound of {self.path.name} is exactly as long as the film."

    def close(self) -> None:
        """Close the sound file."""
        self._source.close()

    def _send(self, total: int) -> None:
        while self._sent < total:
            size = min(_FRAME, total - self._sent)
            while self._fifo.samples < size:
                self._fetch(size)
            frame = self._fifo.read(size)
            assert frame is not None
            frame.pts, frame.time_base = self._sent, Fraction(1, RATE)
            self._target.mux(self._stream.encode(frame))
            self._sent += size

    def _fetch(self, size: int) -> None:
        frame = None if self._ended else next(self._decoded, None)
        if frame is None:
            self._ended = True
            frame = _silence(size - self._fifo.samples)
        else:
            self._read += frame.samples
        frame.pts = None
        self._fifo.write(frame)


def _open(path: Path) -> InputContainer:
    import av

    return av.open(str(path.absolute()), "r", metadata_errors="replace")


def _samples(container: InputContainer) -> Iterator[AudioFrame]:
    """Decode as 48 kHz stereo."""
    resampler = _resampler()
    for frame in _decoded(container):
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _timed_samples(container: InputContainer, begin: Fraction) -> Iterator[AudioFrame]:
    """The same from `begin` on, each sample at its own time: silence stands for what is missing."""
    resampler, position, fresh = _resampler(), 0, True
    for frame in _decoded(container):
        tick = frame.time_base or Fraction(1, frame.sample_rate)
        due = position if frame.pts is None else round((frame.pts * tick - begin) * RATE)
        if fresh:
            position = min(due, 0)
        if due - position < -_APART:
            continue  # of a time that was heard already
        if due - position > (0 if fresh else _APART):
            yield from [] if fresh else resampler.resample(None)
            resampler = _resampler()
            for start in range(position, due, RATE):  # hours of silence take no memory
                yield _silence(min(RATE, due - start))
            position = due
        fresh = False
        for part in resampler.resample(frame):
            position += part.samples
            if position > 0:
                yield part if position >= part.samples else _end_of(part, position)
    yield from resampler.resample(None)


def _end_of(frame: AudioFrame, samples: int) -> AudioFrame:
    """The last samples of a frame."""
    from av.audio.frame import AudioFrame

    end = AudioFrame.from_ndarray(frame.to_ndarray()[:, -samples:].copy(), format="fltp", layout="stereo")
    end.sample_rate = RATE
    return end


def _resampler() -> AudioResampler:
    from av.audio.resampler import AudioResampler

    return AudioResampler(format="fltp", layout="stereo", rate=RATE)


def _decoded(container: InputContainer) -> Iterator[AudioFrame]:
    """Everything that can be decoded; a damaged packet is left out, as players do."""
    from av.error import InvalidDataError

    for packet in _packets(container):
        try:
            frames = packet.decode()
        except InvalidDataError:
            continue
        yield from frames


def _packets(container: InputContainer) -> Iterator[Packet[AudioStream]]:
    from av.error import InvalidDataError

    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            yield next(packets)
        except (StopIteration, InvalidDataError):  # damage in the container ends it: its packets cannot be found
            return


def _silence(samples: int) -> AudioFrame:
    import numpy as np
    from av.audio.frame import AudioFrame

    frame = AudioFrame.from_ndarray(np.zeros((2, samples), np.float32), format="fltp", layout="stereo")
    frame.sample_rate = RATE
    return frame
