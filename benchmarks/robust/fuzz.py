"""Mutated scripts by the thousand: whatever a file holds, a person gets one sentence, and soon.

The seeds are one good script of every kind that Rivulet reads; each case damages one of them as editors, disks and
strangers do. Other readers join through `run`'s `targets`.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from app.config.lengths import Rhythm
from app.config.nodes import decode
from app.errors import UsageMistake
from app.render.exporting import export_longlive
from app.script.importers import parse_script
from app.script.shot_list import export_native, parse_native
from app.script.timeline import resolve

SEEDS: dict[str, bytes] = {
    "shots.yaml": b"""version: 1
defaults: {style: "35mm film, overcast light", transition: {kind: soft, chunks: 2}}
shots:
  - at: 0s
    prompt: "A red fox walks through fresh snow."
  - at: 0:08
    prompt: The fox stops and looks up; snow begins to fall.
    guidance_scale: 1.5
  - at: 320f
    prompt: [["The fox sleeps under a pine.", 0.7], ["northern lights", 0.3]]
    transition: recache
end: 30s
""",
    "shots.json": b'{"version": 1, "shots": [{"prompt": "a ball"}, {"at": "8s", "prompt": [["a star", 1], ["b", 2]], '
    b'"transition": {"kind": "cut"}}], "end": 12.5}\n',
    "prompts.txt": "a red ball\n\na blue star\nover snow\n\nein grüner Würfel\n".encode(),
    "inline.txt": b"[0s-5s: a red ball] [5s: a blue star]\n[7.5s-10s: a heart] film grain\n",
    "longlive.jsonl": b'{"prompts": ["a red ball", "a blue star"], "switch_frame_indices": [21]}\n'
    b'{"prompts": ["one", "two \\u00e9"]}\n',
    "scope.json": b'{"version": "2.0", "prompts": [{"startTime": 0, "endTime": 4.5, "prompts": '
    b'[{"text": "a ball", "weight": 70}, {"text": "a star", "weight": 30}]}, {"startTime": 4.5, "endTime": 9, '
    b'"text": "a heart", "transitionSteps": 2, "temporalInterpolationMethod": "slerp"}], "settings": {"seed": 4}}\n',
    "my.scope-workflow.json": b'{"format": "scope-workflow", "format_version": "1.0", "pipelines": [], "timeline": '
    b'{"entries": [{"start_time": 0, "end_time": 8, "prompts": [{"text": "a ball", "weight": 100}]}]}}\n',
    "travel.txt": b"0: a red ball bounces over the sea\n30: a blue star\n75: a yellow heart at night\n",
    "schedule.txt": b'"0" :"a red ball, sea",\n"16" :"a blue star --neg rain",\n',
    "braces.txt": b"{0:'a red ball', 16:'a blue star'}\n",
    "clocks.txt": b"# takes\n[0:00] a red ball\n[0:04-0:08] a blue star\n00:00:08,500 a heart\n",
    "deforum.json": b'{"fps": 15, "max_frames": 120, "prompts": {"0": "a ball", "30": "a star --neg x"}, '
    b'"animation_prompts_positive": "film grain", "seed": 3}\n',
    "subtitles.srt": b"1\n00:00:00,000 --> 00:00:04,000\na red ball\n\n2\n00:00:04,000 --> 00:00:08,000\na star\n",
    "film.vtt": b"WEBVTT\n\nNOTE x\n\n00:00:00.000 --> 00:00:04.000\na ball &amp; a star\n\n"
    b"00:00:04.000 --> 00:00:08.000\n0.70 a fox + 0.30 a wolf\n",
    "table.csv": b'start,end,prompt,seed\n0,4,"a ball, red",1\n0:04,8s,a star,2\n',
    "table.tsv": b"frame\tprompt\n0\ta ball\n30\ta star\n",
    "list.json": b'[{"start": 0, "prompt": "a ball"}, {"start": "0:04", "prompt": "a star"}]\n',
    "shots.toml": b"[[shots]]\nat = '0s'\nprompt = 'a ball'\n[[shots]]\nat = '4s'\nprompt = 'a star'\n",
}
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


def read_script(data: bytes, name: str) -> None:
    """Everything that happens to a script before a model is loaded, and both exports."""
    for script in parse_script(decode(data, name), name)[:20]:
        if parse_native(export_native(script), "exported.yaml") != script:
            raise AssertionError("a script does not come back from its export as it was")
        timeline = resolve(script, length=None, fps=16, rhythm=Rhythm(3, 3))
        for chunk in range(min(40, timeline.chunks)):
            if abs(sum(weight for _, weight in timeline.blend(chunk)) - 1) > 1e-6:
                raise AssertionError("the weights of a chunk do not add up to 1")
        with suppress(UsageMistake):  # weights and blends are good scripts all the same
            export_longlive(timeline)


SCRIPTS: dict[str, tuple[bytes, Target]] = {name: (data, read_script) for name, data in SEEDS.items()}
"""What `run` damages unless told otherwise; join it with the seeds of another reader."""


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
    targets: Mapping[str, tuple[bytes, Target]] | None = None,
    damage: Damage | None = None,
) -> list[dict[str, Any]]:
    """Mutate and read `count` files, dealt evenly to the targets, and count what came of them.

    Args:
        count: files in all.
        seed: of the mutations; the same seed makes the same files.
        targets: name of a file -> its good content and what reads it; SCRIPTS if None.
        damage: how a file is damaged; `mutate` if None.

    Returns:
        A row a target: file, accepted, refused, others (exceptions that no person should see, at most ten in
        words), slowest (seconds of the slowest file).
    """
    chosen = SCRIPTS if targets is None else targets
    names: Sequence[str] = list(chosen)
    tallies = {name: _Tally() for name in names}
    rng = random.Random(seed)
    for index in range(count):
        name = names[index % len(names)]
        good, read = chosen[name]
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


def measure(*, count: int) -> dict[str, Any]:
    """`count` mutated scripts, and as many configs, messages to the live server, files dropped on its page, and records
    of films.

    "passed" if nothing but one-line refusals came of them.
    """
    from benchmarks.robust.fuzz_configs import CONFIGS  # which is written in this module's terms
    from benchmarks.robust.fuzz_live import WIRE, drops
    from benchmarks.robust.fuzz_records import alter, records

    rows = [row for targets in (SCRIPTS, CONFIGS, WIRE, drops()) for row in run(count, targets=targets)]
    with records() as targets:
        rows += run(count, targets=targets, damage=alter)
    return {
        "benchmark": "fuzz",
        "scripts": count,
        "configs": count,
        "messages": count,
        "dropped": count,
        "records": count,
        "rows": rows,
        "passed": not any(row["other_exceptions"] for row in rows),
    }


def table(result: dict[str, Any]) -> Table:
    """Lay the rows out for a person."""
    shown = Table("file", "accepted", "refused", "other exceptions", "slowest", title="mutated files")
    for row in result["rows"]:
        numbers = (row["accepted"], row["refused"], row["other_exceptions"])
        shown.add_row(row["file"], *(str(number) for number in numbers), f"{row['slowest_s']:.2f} s")
    return shown


def is_told_well(message: str) -> bool:
    """Whether a refusal is short, on one line, and ends with what to do."""
    return 20 <= len(message) <= 600 and "\n" not in message and message.rstrip().endswith((".", '"'))
