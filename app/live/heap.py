"""Heap of the process: freed memory is given back, for the C library keeps what lies between blocks in use.

After a film with many copies of its past that is most of what it held.
"""

import ctypes
import gc
import sys


def give_back() -> None:
    """Return what can be returned; takes milliseconds. Elsewhere than with glibc nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def settle() -> None:
    """Let the collector never look at what is there now, the code of all libraries above all.

    It would go through a million objects whenever what a client sends becomes many new ones, and hold everything up
    meanwhile: an eighth of a second on an idle machine.
    """
    gc.freeze()
