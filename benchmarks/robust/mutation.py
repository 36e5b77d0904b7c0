"""Mutation of a file as editors, disks and strangers damage it, and a count of what its reader made of that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import UsageMistake

_PIECES: tuple[bytes, ...] = (
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\t", b"\x1b[2J", b"\xe2\x80\xa8", b"\xc2\x85"),
    *(b"&a ", b"*a", b"!!python/object:os.system ", b"!x ", b"<<: ", b"? ", b"---\n", b"...\n", b"%YAML 9.9\n", b"|\n"),
    *(b"[" * 40, b"{" * 40, b"- " * 40, b"'", b'"', b"{a: ", b"]", b"}", b"[0s:", b"[5s-2s: x]", b": ", b"#", b"\\u"),
    *(b"-1", b"0", b"1e999", b".nan", b"NaN", b"-.inf", b"9" * 400, b"0.0000000001", b"1e-400", b"99999999s", b"25h"),
    *(b"-5s", b"1.5f", b"12c", b"0:75", b"soft 99999", b"null", b"~", b"yes", b"\n\n\n", b"x" * 11_000, b"\\ud800"),
    *(b"\nend: 1s\n", b"\nshots: []\n", b"\nat: 3s\n", b"guidance_scale: 500\n", b"stlye: x\n", "\u0669".encode()),
)


Target = Callable[[bytes, str], object]
"""Reads the bytes of a file of that name; may raise UsageMistake and nothing else."""


Damage = Callable[[bytes, random.Random], bytes]
"""Makes another file of a good one."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to four places: cut, double, swap, flip bits, insert what readers stumble over."""
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(7):
            case 0:
                data = data[:at] + data[min(end, at + rng.randint(1, 30)) :]
            case 1:
                data = data[:at] + rng.choice(_PIECES) + data[at:]
            case 2:
                data = data[:at] + rng.choice(_PIECES) + data[min(end, at + rng.randint(1, 12)) :]
            case 3:
                data = data[:end] + data[at:end] * rng.randint(1, 3) + data[end:]
            case 4:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 5:
                lines = data.split(b"\n")
                first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
                lines[first], lines[second] = lines[second], lines[first]
                data = b"\n".join(lines)
            case _:
                data = data[:end]
    return data[:200_000]


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    refused: int = 0
    others: list[str] = field(default_factory=list[str])
    slowest: float = 0.0


def run(
    count: int = 10_000,
    seed: int = 0,
    *,
    targets: Mapping[str, tuple[bytes, Target]],
    damage: Damage | None = None,
) -> list[dict[str, Any]]:
    """Mutate and read `count` files, dealt evenly to the targets, and count what came of them.

    Args:
        count: files in all.
        seed: of the mutations; the same seed makes the same files.
        targets: name of a file -> its good content and what reads it.
        damage: how a file is damaged; `mutate` if None.

    Returns:
        A row a target: file, accepted, refused, others (exceptions that no person should see, at most ten in
        words), slowest (seconds of the slowest file).
    """
    names: Sequence[str] = list(targets)
    tallies = {name: _Tally() for name in names}
    rng = random.Random(seed)
    for index in range(count):
        name = names[index % len(names)]
        good, read = targets[name]
        tally, case = tallies[name], (damage or mutate)(good, rng)
        begun = time.perf_counter()
        try:
            read(case, name)
            tally.accepted += 1
        except UsageMistake as mistake:
            tally.refused += 1
            if not is_told_well(str(mistake)):
                tally.others.append(f"not one sentence and one action: {str(mistake)[:200]!r}")
        except Exception as error:  # the very thing this benchmark looks for
            tally.others.append(f"{type(error).__name__}: {str(error)[:200]!r} from {case[:200]!r}")
        tally.slowest = max(tally.slowest, time.perf_counter() - begun)
    return [
        {
            "file": name,
            "accepted": tally.accepted,
            "refused": tally.refused,
            "other_exceptions": len(tally.others),
            "others": tally.others[:10],
            "slowest_s": round(tally.slowest, 4),
        }
        for name, tally in tallies.items()
    ]


def is_told_well(message: str) -> bool:
    """Whether a refusal is short, on one line, and ends with what to do."""
    return 20 <= len(message) <= 600 and "\n" not in message and message.rstrip().endswith((".", '"'))
