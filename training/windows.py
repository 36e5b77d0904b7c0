"""Cuts training windows out of films: which frames, under which prompt, at which noise, and where the loss counts.

A window looks like what the engine shows the transformer: the film's beginning, or a sink and the frames just before,
at slot positions 0, 1, 2 ... and with one prompt for the whole memory, as after a re-cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.captions import caption
from training.data import ALIKE, CORNERS, FRAMES, TURN, Film, Shelf
from training.mix import USUAL, Mix
from training.noise import draw_rising_sigma, draw_shake, draw_sigma

WINDOW, SINK = 12, 3
"""Latent frames the engine's embedded preset shows at once, and how many of them are the sink."""
LEFT_OPEN = 0.08
"""Share of prompts that do not say the colour, and of those that do not say the scene."""
BEGINNINGS, PICTURES, TURNS = 6, 18, 3
"""A step's batch in beginnings, in pictures and in turns, over its windows: about equal work."""
OTHER_NOISE = 0.5
"""With more noise than this a picture may be painted over another one than what is asked for."""
PLACE_NOISE = 0.75
"""Under more noise than this a picture hardly tells where its object is. To be all the way to a ball, wherever it may
be, is to paint one everywhere: said "heart", the model drew three. Behind a switch the history tells."""
PAIRS = 3
"""So many of a scene's pairs of pictures are its closest."""
OWN_ROUNDS, OWN_NOISE = 3, (0.3, 0.9)
"""How often over at most the model paints its own history, and from which noise."""


@dataclass(frozen=True, slots=True)
class Window:
    """One training example: rows of a film's latents, the prompt in force at its end, and frames that count."""

    film: int
    frames: tuple[int, ...]
    prompt: str
    loss: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's examples.

    Attributes:
        latents: clean, [B, F, C, h, w].
        sigma: noise level of each frame, [B, F]; 0 = clean history.
        history_noise: how much history is shaken while declared clean, [B, F]; with `own`, what it is painted from.
        weight: which frames count in the loss, [B, F].
        focus: weight of each place in a frame, [B, F, h, w], 1 on average.
        outline: how much of the time a place belongs to the object, [B, F, 2h, 2w], 0..1.
        course: where the object goes next, as of training.data.courses, [B, F, 4].
        prompts: one an example.
        chunk: latent frames that see each other.
        forced: whether noisy chunks see clean history (teacher forcing) or each other.
        joint: so many last frames see each other across chunks.
        ladder: whether every noisy frame is at one of the levels that were given, the sampler's own.
        own: so many times over the model paints the history itself, each time behind what it had painted before.
        under: what the noise is laid over where that is not what is asked for, as the latents; None: the latents.
        instead: what else a picture's or a turn's prompt might ask for, under the noise or not, as the latents.
        heard: which frames are asked how far they have gone from there to what is asked for, [B, F].
    """

    latents: Tensor
    sigma: Tensor
    history_noise: Tensor
    weight: Tensor
    focus: Tensor
    outline: Tensor
    course: Tensor
    prompts: list[str]
    chunk: int
    forced: bool = False
    joint: int = 0
    ladder: bool = False
    own: int = 0
    under: Tensor | None = None
    instead: Tensor | None = None
    heard: Tensor | None = None

    def rows(self, rows: slice) -> Batch:
        """Some of the examples."""
        return replace(self, prompts=self.prompts[rows], **self._tensors(lambda tensor: tensor[rows]))

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        return replace(self, **self._tensors(lambda tensor: tensor.to(device)))

    def _tensors(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}


def _owner(film: Film, frame: int) -> int:
    """Which of a film's clips a latent frame belongs to."""
    return int(film.switch is not None and frame >= film.switch)


def draw_window(
    rng: np.random.Generator, number: int, film: Film, chunk: int, dropped: float = USUAL.dropped
) -> Window:
    """Draw a window of `chunk`-aligned chunks out of film `number`.

    Half of the windows begin with the film; the others are a sink and later frames, so that the first chunk behind the
    sink, which would have to jump in time, does not count. Where a switch falls into the window, the window is moved
    until the switch is a chunk's border if it can be; the frames of the other prompt are history and do not count.
    """
    if rng.random() < 0.5:
        frames = list(range(WINDOW))
        counted = [True] * WINDOW
    else:
        late = int(rng.integers(SINK + 1, FRAMES - (WINDOW - SINK) + 1))
        if film.switch is not None and late < film.switch < late + WINDOW - SINK:
            late -= (late - film.switch) % chunk if (late - film.switch) % chunk < late - SINK else 0
        sink = 0 if rng.random() < 0.7 else int(rng.integers(0, late - SINK))
        frames = [*range(sink, sink + SINK), *range(late, late + WINDOW - SINK)]
        counted = [sink == 0] * SINK + [False] * max(chunk, SINK) + [True] * (WINDOW - SINK - max(chunk, SINK))
    stop = WINDOW
    if film.switch is not None and rng.random() < 0.35:  # what came before a switch must be learned as well
        before = sum(frame < film.switch for frame in frames)
        stop = before // chunk * chunk or WINDOW
    owner = _owner(film, frames[stop - 1])
    mixed = [
        len({_owner(film, frame) for frame in frames[start : start + chunk]}) > 1 for start in range(0, WINDOW, chunk)
    ]
    loss = tuple(
        counted[i] and i < stop and _owner(film, frame) == owner and not mixed[i // chunk]
        for i, frame in enumerate(frames)
    )
    return Window(number, tuple(frames), _prompt(rng, film, owner, dropped), loss)


def draw_joint_window(
    rng: np.random.Generator, number: int, film: Film, history: int, noisy: int, dropped: float = USUAL.dropped
) -> Window:
    """Draw a window of clean `history` and of `noisy` frames that are denoised together.

    Without history it is the film's beginning; two chunks of it are a sink and the frames just before. A prompt in the
    middle of the window is in force for all of it, but only the frames it is true of count.
    """
    begin = int(rng.integers(0, FRAMES - history - noisy + 1)) if history else 0
    frames = list(range(begin, begin + history + noisy))
    if history > SINK:
        frames[:SINK] = range(SINK)
    owner = _owner(film, frames[-1])
    loss = [i >= history and _owner(film, frame) == owner for i, frame in enumerate(frames)]
    return Window(number, tuple(frames), _prompt(rng, film, owner, dropped), tuple(loss))


def _prompt(rng: np.random.Generator, film: Film, owner: int, dropped: float) -> str:
    """A prompt for one of a film's clips. What it leaves open is to stay; films with a switch leave nothing open."""
    if rng.random() < dropped:
        return ""
    spec = film.second if owner and film.second is not None else film.first
    return caption(spec, rng, leave_open=LEFT_OPEN if film.second is None else 0.0)


def draw_batch(
    rng: np.random.Generator,
    films: Shelf,
    beginnings: Shelf,
    pictures: Shelf,
    turns: Shelf,
    size: int,
    progress: float = 1.0,
    levels: Sequence[float] | None = None,
    mix: Mix = USUAL,
) -> Batch:
    """Draw one step's batch.

    *Pictures* (a film's first frame) and *beginnings* (its first three) teach what words look like and how the
    object sets off, at a 24th and an eighth of the price of a window: most of a run's first part, a good third of
    the rest. (A window's later chunks see in their history how it moves, and need no word for it.) *Turns* are the
    chunk behind a switch, where only a word tells what stays and what does not. The other steps are *windows*. Most of
    these are teacher-forced (`forced`): every chunk is noisy and sees clean history, which is what serial plans do. A
    third is denoised together under rising noise (`joint`), for rolling windows and moving buffers. The rest is
    diffusion forcing (Chen et al. 2024, arXiv 2407.01392): independent noise per chunk, often behind a clean beginning,
    for plans whose history is still noisy.

    Args:
        rng: the only source of chance.
        films: whole films, for windows.
        beginnings: many more films' first three latent frames.
        pictures: many scenes, ALIKE of each.
        turns: short films with a switch, CORNERS of each.
        size: windows in the batch; of all else there are more.
        progress: 0..1 of the run.
        levels: the only noise levels of pictures, beginnings and teacher-forced windows, if given.
        mix: how often each of these is drawn.
    """
    later = int(progress >= mix.early)
    kind = rng.random()
    if kind < mix.pictures[later]:
        return _pictures(rng, pictures, PICTURES * size // ALIKE, levels, mix)
    if kind < mix.pictures[later] + mix.turns[later]:
        return _turns(rng, turns, max(1, TURNS * size // CORNERS), levels, mix)
    if kind < 1.0 - mix.windows[later]:
        return _beginnings(rng, beginnings, BEGINNINGS * size, levels, mix)
    numbers = films.numbers(mix.switches)
    picks = numbers[rng.integers(len(numbers), size=size)]
    plan = rng.random()
    if plan < mix.joint:
        history = int(rng.choice([0, SINK, 2 * SINK]))
        full = int(rng.choice([12, 15]))
        noisy = full if history or rng.random() < 0.5 else int(rng.integers(1, full // 3)) * 3  # the last: warming up
        windows = [draw_joint_window(rng, int(n), films.films[n], history, noisy, mix.dropped) for n in picks]
        sigma = np.pad(draw_rising_sigma(rng, size, noisy, full), ((0, 0), (history, 0)))
        return _windows(rng, films, windows, sigma, mix, chunk=3, joint=noisy)
    chunk = 1 if rng.random() < mix.single else 3
    chunks, forced = WINDOW // chunk, plan < 1.0 - mix.noisy
    windows = [draw_window(rng, int(n), films.films[n], chunk, mix.dropped) for n in picks]
    sigma = draw_sigma(rng, size * chunks, levels if forced else None).reshape(size, chunks).repeat(chunk, axis=1)
    if not forced:
        clean = np.where(rng.random(size) < 0.5, rng.integers(1, chunks, size), 0)
        sigma = np.where(np.arange(WINDOW)[None] < clean[:, None] * chunk, 0.0, sigma)
    return _windows(rng, films, windows, sigma, mix, chunk=chunk, forced=forced, ladder=levels if forced else None)


def _windows(
    rng: np.random.Generator,
    films: Shelf,
    windows: list[Window],
    sigma: np.ndarray,
    mix: Mix,
    *,
    chunk: int,
    forced: bool = False,
    joint: int = 0,
    ladder: Sequence[float] | None = None,
) -> Batch:
    """The batch of windows at noise levels [B, F]; what is clean does not count."""
    # Slightly wrong history that is declared clean teaches the model to repair its errors instead of adding to them:
    # shaken by noise, or painted by the model itself.
    shaken = draw_shake(rng, len(windows), mix.shaken)
    own = int(rng.integers(1, OWN_ROUNDS + 1)) if forced and rng.random() < mix.own else 0
    if own:
        shaken = rng.uniform(*OWN_NOISE, shaken.shape) if ladder is None else np.full(shaken.shape, ladder[-1])
    weight = np.array([window.loss for window in windows]) & (sigma > 0)

    def cut(shelf: Tensor) -> Tensor:
        return torch.stack([shelf[window.film][list(window.frames)] for window in windows])

    outline = cut(films.outlines)
    return Batch(
        cut(films.latents).float(),
        torch.from_numpy(sigma).float(),
        torch.from_numpy(shaken).float().expand(sigma.shape),
        torch.from_numpy(weight).float(),
        _focus(outline, mix.focus),
        outline.float() / 2,
        cut(films.courses),
        [window.prompt for window in windows],
        chunk,
        forced,
        joint,
        ladder is not None,
        own,
    )


def _focus(outline: Tensor, focus: float) -> Tensor:
    """Weights [B, F, h, w]: the object and its edge count `focus` times more, all weights average 1.

    An object covers a tenth of the picture and is most of what a prompt says.
    """
    near = F.max_pool2d(outline.flatten(0, 1).float(), kernel_size=4, stride=2, padding=1).clamp(max=1)
    weight = 1.0 + focus * near.unflatten(0, outline.shape[:2])
    return weight / weight.mean()


def _pictures(
    rng: np.random.Generator, pictures: Shelf, groups: int, levels: Sequence[float] | None, mix: Mix
) -> Batch:
    """First frames, all pictures of a scene, some of them painted over another one than what is asked for.

    Noisy pictures mostly tell the shape themselves, and what always agrees is learned from whichever is easier to read:
    a transformer that looks need not listen, and ball and square stayed one word to it. Where the picture says
    another shape, pattern or company than the prompt, only the prompt helps.
    """
    closest = bool(rng.random() < mix.closest)
    groups = groups * ALIKE // 2 if closest else groups  # as many pictures in all
    first = rng.integers(len(pictures.films) // ALIKE, size=(groups, 1)) * ALIKE
    if closest:
        scenes = pictures.latents[(first + np.arange(ALIKE)).ravel()].unflatten(0, (groups, ALIKE))
        which, instead = _closest(rng, scenes)
    else:
        which, instead = _any(rng, groups)
    picks, others = (first + which).ravel(), (first + instead).ravel()
    prompts = [_prompt(rng, pictures.films[n], 0, mix.dropped) for n in picks]
    sigma = draw_sigma(rng, len(picks), levels)
    other = 0.0 if levels else mix.other  # a student learns from its teacher, not from the truth
    others, under = _swapped(rng, picks, others, prompts, sigma, other)
    batch = _openings(pictures, picks, prompts, sigma, 1, levels, mix)
    either = torch.maximum(pictures.outlines[picks], pictures.outlines[under])
    batch = replace(batch, focus=_focus(either, mix.focus), under=pictures.latents[under].float())
    if levels:
        return batch
    return replace(batch, instead=pictures.latents[others].float(), heard=(batch.sigma < PLACE_NOISE).float())


def _swapped(
    rng: np.random.Generator, picks: np.ndarray, others: np.ndarray, prompts: list[str], sigma: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """What else might be asked for, nothing where there is no prompt, and what the noise is laid over."""
    others = np.where([prompt == "" for prompt in prompts], picks, others)
    return others, np.where((rng.random(len(picks)) < share) & (sigma > OTHER_NOISE), others, picks)


def _any(rng: np.random.Generator, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of every scene, and for each one any other; places [groups, ALIKE]."""
    which = np.broadcast_to(np.arange(ALIKE), (groups, ALIKE))
    return which, (which + rng.integers(1, ALIKE, size=which.shape)) % ALIKE


def _closest(rng: np.random.Generator, scenes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One of the closest PAIRS of every scene [groups, N, ...], either way round; places [groups, 2]."""
    groups, size = scenes.shape[:2]
    flat = scenes.flatten(2).float()
    apart = torch.cdist(flat, flat).masked_fill(torch.ones(size, size, dtype=torch.bool).tril(), torch.inf)
    pairs = apart.flatten(1).argsort(dim=-1, stable=True)[:, :PAIRS].numpy()
    drawn = pairs[np.arange(groups), rng.integers(PAIRS, size=groups)]
    pair = np.stack([drawn // size, drawn % size], axis=1)
    return pair, pair[:, ::-1]


def _turns(rng: np.random.Generator, turns: Shelf, squares: int, levels: Sequence[float] | None, mix: Mix) -> Batch:
    """The chunk behind a switch and the clean history before it, all corners of a square of films.

    The history shows the old object, and going on with it was right so often that a new word was not heard over it.
    Two films of a square have one history and differ in one word, whether all else is new or nothing is.
    """
    first = rng.integers(len(turns.films) // CORNERS, size=(squares, 1)) * CORNERS
    picks, others = ((first + corner).ravel() for corner in (np.arange(CORNERS), np.arange(CORNERS) ^ 1))
    prompts = [
        _prompt(rng, film, int(film.switch is not None), mix.dropped) for film in map(turns.films.__getitem__, picks)
    ]
    level = draw_sigma(rng, len(picks), levels)
    other = 0.0 if levels else mix.other  # a student learns from its teacher, not from the truth
    others, under = _swapped(rng, picks, others, prompts, level, other)
    new = torch.arange(TURN) >= TURN - SINK
    batch = _openings(turns, picks, prompts, level, TURN, levels, mix)
    shaken = draw_shake(rng, len(picks), mix.shaken)
    either = torch.maximum(turns.outlines[picks], turns.outlines[under])
    batch = replace(
        batch,
        sigma=batch.sigma * new,
        history_noise=torch.from_numpy(shaken).float().expand(batch.sigma.shape),
        weight=batch.weight * new,
        focus=_focus(either, mix.focus),
        under=turns.latents[under].float(),
        chunk=SINK,
    )
    return batch if levels else replace(batch, instead=turns.latents[others].float(), heard=batch.weight)


def _beginnings(
    rng: np.random.Generator, beginnings: Shelf, size: int, levels: Sequence[float] | None, mix: Mix
) -> Batch:
    """The first three latent frames of films: how the object sets off when there is no history yet."""
    picks = rng.integers(len(beginnings.films), size=size)
    prompts = [_prompt(rng, beginnings.films[n], 0, mix.dropped) for n in picks]
    return _openings(beginnings, picks, prompts, draw_sigma(rng, size, levels), SINK, levels, mix)


def _openings(
    shelf: Shelf,
    picks: np.ndarray,
    prompts: list[str],
    sigma: np.ndarray,
    frames: int,
    levels: Sequence[float] | None,
    mix: Mix,
) -> Batch:
    """The first so many latent frames of films at one noise level each."""
    outline = shelf.outlines[picks, :frames]
    return Batch(
        shelf.latents[picks, :frames].float(),
        torch.from_numpy(sigma).float()[:, None].expand(-1, frames),
        torch.zeros(len(picks), frames),
        torch.ones(len(picks), frames),
        _focus(outline, mix.focus),
        outline.float() / 2,
        shelf.courses[picks, :frames],
        prompts,
        frames,
        ladder=levels is not None,
    )
