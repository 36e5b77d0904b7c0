"""Where the shots of a script begin, and what every chunk shows of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.lengths import Length, Rhythm, parse_length, parse_moment
from app.errors import UsageMistake
from app.script.script import Script, ScriptShot, script_of
from app.script.timeline import USUAL_LENGTH, Timeline, resolve
from benchmarks.robust.mutation import is_told_well
from pipelines.types import Prompt, Transition

THREE = Rhythm(3, 3)
rhythms = st.builds(Rhythm, st.integers(1, 7), st.integers(1, 7))


def shots(*parts: tuple[str | None, Prompt] | tuple[str | None, Prompt, Transition]) -> tuple[ScriptShot, ...]:
    return tuple(
        ScriptShot(None if part[0] is None else parse_moment(part[0]), *part[1:], place=f"a.yaml, line {line}")
        for line, part in enumerate(parts, 3)
    )


def film(script: Script, length: str | None = None, rhythm: Rhythm = THREE) -> Timeline:
    return resolve(script, length=None if length is None else parse_length(length), fps=16, rhythm=rhythm)


# ------------------------------------------------------------------ places


@given(rhythms, st.integers(1, 12), st.integers(1, 3000))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_prompts_share_a_film_and_begin_with_chunks(rhythm: Rhythm, count: int, frames: int) -> None:
    script = script_of([f"shot {index}" for index in range(count)])
    try:
        timeline = resolve(script, length=Length(frames, "f"), fps=16, rhythm=rhythm)
    except UsageMistake as mistake:
        suggested = int(str(mistake).split("--duration ")[1].split("f")[0])
        assert suggested > frames  # the suggestion is then followed
        timeline = resolve(script, length=Length(suggested, "f"), fps=16, rhythm=rhythm)
    assert tuple(shot.prompt for shot in timeline.shots) == script.prompts
    for index, shot in enumerate(timeline.shots):
        assert shot.requested.frame == round(index * timeline.frames / count)
        assert shot.actual.frame == rhythm.start_frame(shot.actual.chunk)
        before = rhythm.start_frame(max(0, shot.actual.chunk - 1))
        assert before < shot.requested.frame <= shot.actual.frame or shot.requested.frame == 0
    starts = [shot.actual.chunk for shot in timeline.shots]
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < timeline.chunks
    seen = [timeline.shot_at(chunk) for chunk in range(timeline.chunks)]
    assert seen == sorted(seen)
    assert set(seen) == set(range(count))


def test_shots_begin_with_the_first_chunk_that_is_not_early() -> None:
    timeline = film(Script(shots(("0s", "a"), ("8s", "b"), ("321f", "c"), ("90l", "d"), ("32c", "e"))), "30s")
    assert [shot.requested.frame for shot in timeline.shots] == [0, 128, 321, 357, 381]
    assert [shot.actual.frame for shot in timeline.shots] == [0, 129, 321, 357, 381]
    assert [shot.actual.latent for shot in timeline.shots] == [0, 33, 81, 90, 96]
    assert [shot.actual.chunk for shot in timeline.shots] == [0, 11, 27, 30, 32]


def test_shots_without_a_time_share_what_their_neighbours_leave() -> None:
    script = Script(shots((None, "a"), (None, "b"), ("160f", "c"), (None, "d"), (None, "e")))
    assert [shot.requested.frame for shot in film(script, "400f").shots] == [0, 80, 160, 240, 320]


def test_the_flag_beats_the_scripts_end_and_that_the_usual_length() -> None:
    script = Script(shots(("0s", "a")), end=Length(5, "s"))
    assert film(script, "3s").frames == 48
    assert film(script).frames == 80
    assert film(Script(script.shots)).frames == USUAL_LENGTH.frames(16, THREE) == 320


def test_style_transition_and_parameters_are_carried_into_the_shots() -> None:
    parts = (
        ScriptShot(None, "a", parameters=(("guidance_scale", 2.0),)),
        ScriptShot(None, (("b", 0.5), ("c", 0.5)), Transition("cut")),
        ScriptShot(None, "d", parameters=(("guidance_scale", 1.0),)),
    )
    one, two, three = film(Script(parts, style="grain", transition=Transition("soft", 2))).shots
    assert (one.prompt, two.prompt, three.prompt) == ("a, grain", (("b, grain", 0.5), ("c, grain", 0.5)), "d, grain")
    assert (two.transition, three.transition) == (Transition("cut"), Transition("soft", 2))
    assert [dict(shot.parameters) for shot in (one, two, three)] == [{"guidance_scale": g} for g in (2.0, 2.0, 1.0)]


SOFT9 = Transition("soft", 9)
MISTAKES: dict[str, tuple[Script, str | None, str]] = {
    "empty prompt": (Script(shots(("0s", ""))), None, "a.yaml, line 3: a prompt is empty"),
    "too short for its prompts": (script_of(["a", "b", "c"]), "1s", "Give fewer prompts, or --duration 36f or longer"),
    "not a frame": (script_of(["a"]), "0.01s", "shorter than one frame at 16 fps"),
    "more than a day": (script_of(["a"]), "20000000f", "more than a day"),
    "behind the end": (
        Script(shots(("0s", "a"), ("20s", "b")), end=Length(19, "s")),
        None,
        "a.yaml, line 4: this shot begins at 20.00s, frame 320, behind the end of the film (19.00s, frame 304). "
        "Let the film last 333f or longer, or take the shot out.",
    ),
    "behind the flag": (Script(shots(("0s", "a"), ("20s", "b"))), "10s", "behind the end of the film (10.00s"),
    "at the end": (Script(shots(("0s", "a"), ("320f", "b"))), None, "Let the film last 333f or longer"),
    "no chunk before the end": (
        Script(shots(("0s", "a"), ("318f", "b"))),
        None,
        "no chunk starts between there and the end of the film (20.00s, frame 320). Let the film last 333f or longer.",
    ),
    "one chunk for two": (
        Script(shots(("0s", "a"), ("98f", "b"), ("105f", "c"))),
        None,
        "a.yaml, line 5: this shot begins in the same chunk as the one above it: from 6.56s, frame 105 the next chunk "
        "is 9. Let it begin at 117f (7.31s) or later.",
    ),
    "order over units": (Script(shots(("0s", "a"), ("10s", "b"), ("32l", "c"))), None, "Give it a time after 160f"),
    "same frame over units": (Script(shots(("0s", "a"), ("125f", "b"), ("32l", "c"))), None, "line 5: this shot is to"),
    "no room between": (Script(shots(("0s", "a"), (None, "b"), ("9f", "c"))), None, "line 5: this shot begins in the"),
    "own transition": (
        Script(shots(("0s", "a"), ("8s", "b", SOFT9), ("10s", "c"))),
        None,
        "a.yaml, line 4: a transition of 9 chunks is longer than its shot of 3. Write chunks: 3 or less, or",
    ),
    "common transition": (
        Script(shots(("0s", "a"), ("8s", "b"), ("10s", "c")), transition=SOFT9),
        None,
        "a.yaml, line 4: a transition of 9 chunks is longer than its shot of 3. Give --transition_chunks 3 or less",
    ),
    "transition from the command line": (
        script_of(["a", "b"], transition=SOFT9),
        "3s",
        "A transition of 9 chunks is longer than its shot of 2. Give --transition_chunks 2 or less",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_script_that_does_not_fit_is_refused_with_the_number_to_change(mistake: str) -> None:
    script, length, said = MISTAKES[mistake]
    with pytest.raises(UsageMistake) as caught:
        film(script, length)
    assert said in str(caught.value)
    assert is_told_well(str(caught.value))


def test_the_numbers_in_the_refusals_help() -> None:
    timeline = film(Script(shots(("0s", "a"), ("318f", "b"))), "333f")
    assert timeline.shots[1].actual.frame == 321
    assert film(Script(shots(("0s", "a"), ("20s", "b"))), "333f").shots[1].actual.frame == 321
    assert film(Script(shots(("0s", "a"), ("98f", "b"), ("117f", "c")))).shots[2].actual.frame == 117
    soft = Script(shots(("0s", "a"), ("8s", "b", Transition("soft", 3)), ("10s", "c")))
    assert film(soft).shots[1].transition.chunks == 3


def test_the_first_shot_has_nothing_to_blend_from() -> None:
    timeline = film(Script(shots(("0s", "a", SOFT9), ("2s", "b"))))
    assert [timeline.blend(chunk) for chunk in range(3)] == [(("a", 1.0),)] * 3


# ------------------------------------------------------------------ blends


def test_a_soft_transition_shows_more_of_its_text_chunk_by_chunk() -> None:
    timeline = film(Script(shots(("0c", "a"), ("4c", "b", Transition("soft", 3)), ("12c", "c"))))
    assert timeline.blend(3) == (("a", 1.0),)
    for chunk, part in ((4, 0.25), (5, 0.5), (6, 0.75)):
        assert timeline.blend(chunk) == (("b", part), ("a", 1 - part))
        assert timeline.blending(chunk)
    assert timeline.blend(7) == timeline.blend(11) == (("b", 1.0),)
    assert timeline.blend(12) == (("c", 1.0),)
    assert not timeline.blending(12)


def test_weighted_prompts_blend_text_by_text() -> None:
    timeline = film(
        Script(shots(("0c", (("a", 1.0), ("b", 3.0))), ("4c", (("b", 2.0), ("c", 2.0)), Transition("soft", 1))))
    )
    assert dict(timeline.blend(0)) == {"a": 0.25, "b": 0.75}
    assert dict(timeline.blend(4)) == {"b": 0.5 * 0.5 + 0.5 * 0.75, "c": 0.25, "a": 0.125}


def test_a_blend_cut_short_is_where_the_next_one_starts() -> None:
    soft = Transition("soft", 1)
    timeline = film(Script(shots(("0c", "a"), ("1c", "b", soft), ("2c", "c", soft), ("3c", "d", soft))))
    assert dict(timeline.blend(3)) == {"d": 0.5, "c": 0.25, "b": 0.125, "a": 0.125}
    assert timeline.blend(4) == (("d", 1.0),)


def test_the_same_prompt_again_is_no_new_transition() -> None:
    parts = (("0c", "a"), ("1c", "b", Transition("soft", 2)), ("3c", "b", Transition("soft", 4)), ("9c", "b"))
    timeline = film(Script(shots(*parts)))
    assert [dict(timeline.blend(chunk)).get("b", 0) for chunk in range(5)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


class Weights:
    """Stands in for embeddings: a text is a vector with a 1 in its own place."""

    def __init__(self, names: str) -> None:
        self.names = names

    def encode(self, prompts: list[str]) -> object:
        import torch

        return torch.stack([torch.eye(len(self.names), dtype=torch.float64)[[self.names.index(p)]] for p in prompts])


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.sampled_from("abcd")), min_size=1, max_size=6),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_the_weights_are_those_the_engine_blends_with(parts: list[tuple[int, int, str]]) -> None:
    from pipelines.conditioning import Conditioner, TextState

    starts = [sum(chunks for chunks, _, _ in parts[:index]) for index in range(len(parts) + 1)]
    script = Script(
        tuple(
            ScriptShot(
                Length(start, "c"), name, Transition("soft", min(soft, chunks)) if soft else Transition("recache")
            )
            for start, (chunks, soft, name) in zip(starts, parts, strict=False)
        )
    )
    timeline = resolve(script, length=Length(starts[-1], "c"), fps=16, rhythm=THREE)
    conditioner, text = Conditioner(Weights("abcd")), TextState()
    for chunk in range(timeline.chunks):
        shot = timeline.shots[timeline.shot_at(chunk)]
        if shot.prompt != text.prompt:
            target = conditioner.embed(shot.prompt)
            soft = shot.transition.chunks if chunk else 0
            text = text.begin_blend(shot.prompt, target, soft) if soft else text.change(shot.prompt, target)
        if text.blend:
            text, _ = text.advance()
        assert text.embeds is not None
        shown = dict(timeline.blend(chunk))
        assert text.embeds[0, 0].tolist() == pytest.approx([shown.get(name, 0.0) for name in "abcd"], abs=1e-9)


def test_a_chain_of_thousands_of_blends_adds_up_to_one() -> None:
    parts = tuple(ScriptShot(Length(n, "c"), f"shot {n}", Transition("soft", 1)) for n in range(3000))
    timeline = film(Script(parts), "3000c")
    for chunk in (0, 1, 20, 2999):
        assert sum(weight for _, weight in timeline.blend(chunk)) == pytest.approx(1)
    assert len(timeline.blend(2999)) < 40
