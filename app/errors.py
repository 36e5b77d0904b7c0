"""Mistakes and failures, told to a person in one sentence and one action.

A traceback helps us and frightens everybody else, so it is printed only with `--debug`; what a person can put
right (exit code 2) is told apart from what went wrong under way (exit code 1).
"""

import errno
import traceback
from pathlib import Path

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 129, 130, 143

_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("app", "benchmarks", "cache", "models", "parallel", "pipelines", "schedulers", "training", "weights")


_CARD_FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")
"""What a device's libraries say in a bare RuntimeError: CUDA and HIP, MPS, and those for matrices and convolutions."""


class UsageMistake(Exception):
    """Something the person who typed the command can put right; the text says how."""


class RenderFailure(Exception):
    """Work that began and could not be finished; the text says what is left of it."""


def explain(error: BaseException) -> tuple[str, int]:
    """Turn an exception into the line for a person and the exit code that goes with it.

    `ValueError` is the engine's word for a user's mistake, but libraries raise it for their own reasons too:
    it counts as a mistake only where our own code raised it.
    """
    if isinstance(error, UsageMistake):
        return str(error), EXIT_USAGE
    if isinstance(error, RenderFailure):
        return str(error), EXIT_FAILURE
    if type(error).__name__ in ("LinkLost", "NoSmallerPlan"):  # of parallel/ and of loading/, which few commands load
        return str(error), EXIT_FAILURE
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Interrupted.", EXIT_INTERRUPTED
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, ValueError) and _raised_by_us(error):
        return str(error), EXIT_USAGE
    if card_out_of_memory(error):
        return (
            "The card is out of memory. Give --vram auto, which chooses a smaller plan and says what it trades, "
            "--vae tiny, or a smaller size or window.",
            EXIT_FAILURE,
        )
    if out_of_memory(error):
        return "The machine is out of memory. Close other programs, or choose a smaller size or model.", EXIT_FAILURE
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return (
        f"Something broke inside Rivulet ({type(error).__name__}: {first_line}). "
        "Run the same command with --debug and report what it prints.",
        EXIT_FAILURE,
    )


def disk_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit on a file's size ran out."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory of host or device ran out; for the host torch raises a bare RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or card_out_of_memory(error)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def card_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device ran out: torch's own error, or what its libraries say in a RuntimeError."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _CARD_FULL)


def printable(text: str) -> str:
    """Escape control characters and lone surrogates: a quoted text must not move the cursor."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shorten(text: str, width: int) -> str:
    """Cut `text` to `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(1, width - 2)].rstrip() + " …"


def shorten_path(path: object, width: int = 80) -> str:
    """Cut a path to `width` characters and keep its end: the file's own name says most, and its ending what it is."""
    text = str(path)
    return text if len(text) <= width else "… " + text[len(text) - max(1, width - 2) :].lstrip()


def _explain_os_error(error: OSError) -> tuple[str, int]:
    if disk_full(error):
        return "The disk is full. Free some space and run the command again.", EXIT_FAILURE
    if isinstance(error, BrokenPipeError):
        return "Whatever read this output has gone. Run the command again without cutting its output off.", EXIT_FAILURE
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        if error.filename is None:  # raised by our packages with a whole sentence, not by the system
            return str(error), EXIT_USAGE
        return f"{error.filename}: {error.strerror}. Check the path and its permissions.", EXIT_USAGE
    return f"{error}. Check the disk and run the command again.", EXIT_FAILURE


def _raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    source = Path(frames[-1].filename).resolve()
    return source.is_relative_to(_ROOT) and source.relative_to(_ROOT).parts[0] in _OURS
