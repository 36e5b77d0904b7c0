"""The captions: known words, many ways to say one thing, and nothing that is seen goes unsaid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.text import words_of
from training import captions
from training.captions import caption, held_out_prompts, plain, vocabulary
from training.world import MOTIONS, SCENES, ClipSpec, Companion, is_held_out, sample_spec

SPEC = ClipSpec("red", "ball", "big", "left", "sea", 0.5, 0.5, 0.25, 7)


def says(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text holds one of the phrases, as whole words."""
    words = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(phrase))} " in words for phrase in phrases)


def test_captions_say_what_is_seen_with_known_words_and_many_ways() -> None:
    rng = np.random.default_rng(0)
    known, said, used = set(vocabulary()), set(), set()
    for _ in range(4000):
        spec = sample_spec(rng)
        text = caption(spec, rng)
        assert text == text.lower()
        words = words_of(text)
        assert len(words) <= captions.LONGEST
        used.update(words)
        said.add(text)
    assert used <= known
    assert len(known - used) < 12  # no word without training
    assert len(said) > 3900
    assert 150 < len(known) < 400
    assert vocabulary() == sorted(known)


def test_everything_that_a_clip_shows_is_said() -> None:
    rng = np.random.default_rng(1)
    shown = dict.fromkeys(("pattern", "weather", "hour", "camera", "companion"), 0)
    for _ in range(3000):
        spec = sample_spec(rng)
        text = caption(spec, rng)
        assert says(text, captions.COLORS[spec.color])
        assert says(text, captions.SHAPES[spec.shape])
        assert says(text, captions.PLACES[spec.scene] if spec.hour == "night" else captions.SCENES[spec.scene])
        if spec.pattern != "plain":
            assert says(text, captions.PATTERNS[spec.pattern])
        if spec.weather != "clear":
            assert says(text, captions.WEATHERS[spec.weather])
        if spec.hour == "night":
            assert says(text, captions.NIGHTS)
        assert says(text, captions.CAMERAS) == (spec.camera == "drifting")
        if spec.companion:
            assert says(text, captions.COLORS[spec.companion.color])
            assert says(text, captions.SHAPES[spec.companion.shape])
            assert says(text, captions.RELATIONS[spec.companion.relation])
        for name in shown:
            shown[name] += getattr(spec, name) not in ("plain", "clear", "usual", "fixed", None)
    assert min(shown.values()) > 200


def test_a_relation_is_said_between_its_two_objects_in_their_order() -> None:
    rng = np.random.default_rng(2)
    for relation, phrases in captions.RELATIONS.items():
        spec = replace(SPEC, size="small", companion=Companion("blue", "star", relation))
        for _ in range(20):
            text = caption(spec, rng)
            first, said, second = (
                min(text.find(phrase) for phrase in options if says(text, (phrase,)))
                for options in (captions.SHAPES["ball"], phrases, captions.SHAPES["star"])
            )
            assert first < said < second, text


def test_the_plain_caption_and_a_persons_sentences_are_in_the_vocabulary() -> None:
    assert plain(replace(SPEC, motion="bounce")) == "a red ball bounces over the sea"
    assert (
        plain(replace(SPEC, color="orange", scene="snow"), size=True) == "a big orange ball moves to the left over snow"
    )
    known = set(vocabulary())
    for text in (
        "a red ball bounces over the sea",
        "a blue star over snow",
        "a blue star above a green cube",
        "a big crimson ball drifts to the left over the sea at sunset",
        "The tiny golden heart, spinning in place under the stars!",
        "a spotted daisy to the left of a pink ring in the rain, the camera drifts",
    ):
        assert set(words_of(text)) <= known, text


def test_captions_of_different_motions_and_scenes_differ() -> None:
    texts = {plain(replace(SPEC, motion=motion, scene=scene)) for motion in MOTIONS for scene in SCENES}
    assert len(texts) == len(MOTIONS) * len(SCENES)


def test_held_out_prompts_are_new_to_training_and_repeatable() -> None:
    for simple in (True, False):
        prompts = held_out_prompts(40, 3, simple=simple)
        assert prompts == held_out_prompts(40, 3, simple=simple)
        assert prompts != held_out_prompts(40, 4, simple=simple)
        assert all(is_held_out(s.color, s.shape, s.motion, s.scene) for _, s in prompts)
        assert len({text for text, _ in prompts}) > 35
    assert any(spec.companion for _, spec in held_out_prompts(40, 3, simple=False))
