"""Freed memory given back to the system: the C library keeps what lies between blocks that are still in use.

After a film with many copies of its past that is most of what it held.
"""

import ctypes
import sys


def give_back() -> None:
    """Return what can be returned; takes milliseconds. Elsewhere than with glibc nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
