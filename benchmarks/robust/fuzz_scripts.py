"""Scripts for the fuzz benchmark: one good script of every kind that Rivulet reads, and what reads them."""

from contextlib import suppress

from app.config.lengths import Rhythm
from app.config.nodes import decode
from app.errors import UsageMistake
from app.render.exporting import export_longlive
from app.script.importers import parse_script
from app.script.shot_list import export_native, parse_native
from app.script.timeline import resolve
from benchmarks.robust.mutation import Target

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
"""Targets for `benchmarks.robust.mutation.run`."""
