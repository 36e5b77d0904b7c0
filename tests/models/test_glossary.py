"""First prompts as people type them: an unknown word is answered by what it means, or honestly by nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.glossary import Glossary, one_slip
from training.captions import vocabulary
from training.meanings import CATEGORIES, glossary

KNOWN = frozenset(vocabulary())
SHIPPED = Path(__file__).parents[2] / "weights" / "embedded" / "text_encoder" / "glossary.json"
SEA, SNOW, MEADOW, CITY = "over the sea", "over the snow", "over the meadow", "over the city at night"
NIGHT, SUNSET, SKY, DESERT = "in the starry night", "at sunset", "in the sky", "in the desert"
FIRST_PROMPTS: dict[str, dict[str, str]] = {
    # known as they are
    "a red ball": {},
    "A Big Blue STAR over the SEA": {},
    "purple triangle, spinning!": {},
    "show me a yellow heart, please": {},
    "the camera drifts over the meadow": {},
    "a video of a small green ring at sunset": {},
    "make it rain over the city": {},
    "a pink flower in the snow": {},
    # other English words
    "a ball on the beach": {"beach": SEA},
    "a red balloon": {"balloon": "ball"},
    "a planet in space": {"planet": "ball", "space": NIGHT},
    "waves on the shore": {"shore": SEA},
    "a dice on a mountain": {"dice": "square", "mountain": SNOW},
    "a jewel in the park": {"jewel": "diamond", "park": MEADOW},
    "a tulip in the garden": {"tulip": "flower", "garden": MEADOW},
    "a wheel rolling down the street": {"wheel": "ring", "rolling": "moves", "street": CITY},
    "turquoise heart": {"turquoise": "green"},
    "a brown box": {"brown": "orange"},
    "a navy star at dawn": {"navy": "blue", "dawn": SUNSET},
    "lavender ring": {"lavender": "purple"},
    "a ball in a storm": {"storm": "in the rain"},
    "a starfish under the skyscrapers": {"starfish": "star", "skyscrapers": CITY},
    "ice": {"ice": SNOW},
    "an enormous bubble": {"enormous": "big", "bubble": "ball"},
    "a galaxy": {"galaxy": NIGHT},
    "a lake": {"lake": SEA},
    "a crystal on a glacier": {"crystal": "diamond", "glacier": SNOW},
    "a pond with a rose": {"pond": SEA},
    # unknown nouns: honestly none
    "a cat": {"cat": ""},
    "a dog runs": {"dog": "", "runs": "moves"},
    "a bear": {"bear": ""},
    "a horse in the meadow": {"horse": ""},
    "a man walking": {"man": "", "walking": "moves"},
    "a woman dancing": {"woman": "", "dancing": "moves"},
    "a spaceship": {"spaceship": ""},
    "a dragon over the city": {"dragon": ""},
    "a fox in the snow": {"fox": ""},
    "a bird": {"bird": ""},
    "a car": {"car": ""},
    "a train at night": {"train": ""},
    "an elephant": {"elephant": ""},
    "a robot": {"robot": ""},
    "a bicycle": {"bicycle": ""},
    "an owl": {"owl": ""},
    "a king": {"king": ""},
    "a boat on the water": {"boat": ""},
    "a tree": {"tree": ""},
    "a hat": {"hat": ""},
    "a pizza": {"pizza": ""},
    "a bus": {"bus": ""},
    "a castle on a hill": {"castle": "", "hill": MEADOW},
    "a black star": {"black": ""},
    "a lion": {"lion": ""},
    "two dogs": {"two": "", "dogs": ""},
    "a cow": {"cow": ""},
    "a snail over the grass": {"snail": ""},
    "a ghost in fog": {"ghost": ""},
    "an airplane": {"airplane": ""},
    "a butterfly": {"butterfly": ""},
    "a zebra xyzzy": {"zebra": "", "xyzzy": ""},
    # plurals and other forms
    "balls": {"balls": "ball"},
    "red squares": {"squares": "square"},
    "hearts over the oceans": {"hearts": "heart", "oceans": SEA},
    "diamonds": {"diamonds": "diamond"},
    "triangles bouncing": {"triangles": "triangle"},
    "cities": {"cities": CITY},
    "beaches": {"beaches": SEA},
    "a ball that jumped": {"jumped": "bounces"},
    "the star spin": {"spin": "spins"},
    "meadows": {"meadows": MEADOW},
    # typing slips
    "a rde ball": {"rde": "red"},
    "a bleu strar": {"bleu": "blue", "strar": "star"},
    "a yelow hart": {"yelow": "yellow", "hart": "heart"},
    "a gren triangel": {"gren": "green", "triangel": "triangle"},
    "a ball over teh sea": {"teh": "the"},
    "purpel ring": {"purpel": "purple"},
    "sunst": {"sunst": "sunset"},
    "a diamnd": {"diamnd": "diamond"},
    "over the oecan": {"oecan": "ocean"},
    "bouncng": {"bouncng": "bouncing"},
    "a whitte flowwer": {"whitte": "white", "flowwer": "flower"},
    "starrry nigth": {"starrry": "starry", "nigth": "night"},
    # emoji
    "🔴 over the sea": {"🔴": "red ball"},
    "a star 🌊": {"🌊": SEA},
    "💛": {"💛": "yellow heart"},
    "⭐ at night": {"⭐": "yellow star"},
    "🐱": {"🐱": ""},
    "🚀 in the sky": {"🚀": ""},
    "a ball ❄️": {"❄": SNOW},
    "🌵🌅": {"🌵": DESERT, "🌅": SUNSET},
    "a red ball 😀": {"😀": ""},
    # other languages
    "ein roter Ball hüpft über dem Meer": {"roter": "red", "hüpft": "bounces", "meer": SEA},
    "ein gelber Stern in der Nacht": {"gelber": "yellow", "stern": "star", "nacht": NIGHT},
    "ein großes grünes Dreieck dreht sich": {
        "großes": "big",
        "grünes": "green",
        "dreieck": "triangle",
        "dreht": "spins",
    },
    "eine Katze im Schnee": {"katze": "", "schnee": SNOW},
    "ein blauer Würfel in der Wüste": {"blauer": "blue", "würfel": "square", "wüste": DESERT},
    "une étoile jaune dans la nuit": {"étoile": "star", "jaune": "yellow", "nuit": NIGHT},
    "un ballon rouge sur la mer": {"ballon": "ball", "rouge": "red", "mer": SEA},
    "un coeur rose dans le ciel": {"coeur": "heart", "ciel": SKY},
    "une petite fleur blanche": {"petite": "small", "fleur": "flower", "blanche": "white"},
    "un chat": {"chat": ""},
    "una pelota roja rebota sobre el mar": {"pelota": "ball", "roja": "red", "rebota": "bounces", "mar": SEA},
    "un corazón rosa sobre la ciudad": {"corazón": "heart", "rosa": "pink", "ciudad": CITY},
    "una estrella azul en la nieve": {"estrella": "star", "azul": "blue", "nieve": SNOW},
    "un perro": {"perro": ""},
    "una palla verde sul prato": {"palla": "ball", "verde": "green", "prato": MEADOW},
    "un cuore rosso al tramonto": {"cuore": "heart", "rosso": "red", "tramonto": SUNSET},
    "uma bola azul no céu": {"bola": "ball", "azul": "blue", "céu": SKY},
    "um coração vermelho na praia": {"coração": "heart", "vermelho": "red", "praia": SEA},
    "een rode bal boven de zee": {"rode": "red", "bal": "ball", "boven": "", "zee": SEA},
    "een gele ster in de nacht": {"gele": "yellow", "ster": "star", "nacht": NIGHT},
    "czerwona piłka nad morzem": {"czerwona": "red", "piłka": "ball", "morzem": SEA},
    "niebieska gwiazda w nocy": {"niebieska": "blue", "gwiazda": "star", "nocy": NIGHT},
    "красный шар прыгает над морем": {"красный": "red", "шар": "ball", "прыгает": "bounces", "морем": SEA},
    "жёлтая звезда ночью": {"жёлтая": "yellow", "звезда": "star", "ночью": NIGHT},
    "синий квадрат в пустыне": {"синий": "blue", "квадрат": "square", "пустыне": DESERT},
    "赤いボールが海の上で跳ねる": {"赤い": "red", "ボール": "ball", "海": SEA, "跳ねる": "bounces"},
    "黄色い星": {"黄色い": "yellow", "星": "star"},
    "猫": {"猫": ""},
    "一个红色的球在海上跳跃": {"红色": "red", "球": "ball", "海": SEA, "跳跃": "bounces"},
    "蓝色的星星在沙漠": {"蓝色": "blue", "星星": "star", "沙漠": DESERT},
}
"""What people type first -> its unknown words, each with what is offered instead; empty: nothing near."""


def test_first_prompts_are_answered_by_meaning() -> None:
    assert len(FIRST_PROMPTS) >= 120
    wrong = {}
    for prompt, meant in FIRST_PROMPTS.items():
        found = {word: near[0] if near else "" for word, near in glossary().unknown(prompt, KNOWN).items()}
        if found != meant:
            wrong[prompt] = found
    assert len(wrong) <= 0.05 * len(FIRST_PROMPTS), wrong


def test_other_first_prompts_are_answered_by_meaning_too() -> None:
    lines = (Path(__file__).parent / "first_prompts.txt").read_text(encoding="utf-8").splitlines()
    asked = [line.partition("|") for line in lines if line and not line.startswith("#")]
    assert len(asked) == 120
    wrong = {}
    for prompt, _, wanted in asked:
        found = glossary().unknown(prompt, KNOWN)
        for word, right in (each.split("=") for each in wanted.split()):
            said, allowed = " ".join(found.get(word, (word,))[:1]).split(), right.split(",")
            unsaid = not said or (word not in KNOWN and word not in found)  # nothing near, or nobody misses it
            if not ("-" in allowed and unsaid) and not {*said} & {*allowed}:
                wrong[prompt] = word, said
    assert len(wrong) <= 0.05 * len(asked), wrong


@pytest.mark.parametrize("word", ["fire", "stable", "page", "old", "mouse", "play", "plane", "three", "mars", "found"])
def test_a_word_is_no_slip_of_another_language(word: str) -> None:
    assert glossary().unknown(word, KNOWN) in ({word: ()}, {})


def test_what_ships_is_the_table() -> None:
    assert Glossary.read(SHIPPED) == glossary()
    assert {name: len(words) for name, words in CATEGORIES.items()} == {"shapes": 9, "colours": 8, "scenes": 8}


def test_every_meaning_is_said_in_known_words() -> None:
    strange = {word for meaning in glossary().meanings.values() for word in meaning.split() if word not in KNOWN}
    assert not strange


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("ein roter Ball hüpft über dem Meer", "red ball bounces over the sea"),
        ("a cat on the beach", "over the sea"),
        ("a red balloon on the beach", "a red ball over the sea"),
        ("赤いボールが海の上で跳ねる", "red ball over the sea bounces"),
        ("a yelow hart", "a yellow heart"),
        ("a red ball", "a red ball"),
    ],
)
def test_a_prompt_is_said_again_in_known_words(prompt: str, said: str) -> None:
    assert glossary().instead(prompt, KNOWN, glossary().unknown(prompt, KNOWN)) == said


def test_a_slip_is_one_of_the_fingers() -> None:
    slips = [
        ("rde", "red"),
        ("strar", "star"),
        ("meadiw", "meadow"),
        ("statr", "start"),
        ("flowr", "flower"),
        ("bal", "ball"),
    ]
    assert all(one_slip(typed, meant) for typed, meant in slips)
    others = [("cat", "at"), ("king", "ring"), ("fox", "box"), ("dog", "fog"), ("bat", "ball"), ("boat", "boats" * 2)]
    assert not any(one_slip(typed, meant) for typed, meant in others)
    assert not one_slip("star", "star")


@pytest.mark.parametrize("text", ["[]", "{}", '{"categories": {}, "meanings": {"a": 1}, "nothing": []}', "nonsense"])
def test_a_file_that_is_no_glossary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(ValueError, match=r"glossary|JSON|Expecting"):
        Glossary.read(tmp_path / "g.json")


def test_a_glossary_comes_back_from_its_file(tmp_path: Path) -> None:
    glossary().write(tmp_path / "g.json")
    assert Glossary.read(tmp_path / "g.json") == glossary()
    assert set(json.loads((tmp_path / "g.json").read_text())) == {"categories", "meanings", "nothing", "slips"}
