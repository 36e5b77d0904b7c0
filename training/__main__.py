"""`python -m training STAGE`: makes the embedded model again, stage by stage or all of it.

Every stage goes on where it was killed; with --steps a run repeats exactly from its seed, with --minutes it fits its
learning rate to the time there is.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import rich
import torch

from models.taehv import AutoencoderTAEHV
from training import ablation, autoencoder, data, dit, export, pack, parts, scorer, scorer_training
from training.blend import blend
from training.distil import GUIDANCE, STEPS, train_distil
from training.dit import Denoiser, load_denoiser
from training.export import newest
from training.sample import Redraw, sample, save_grid

STAGES = ("autoencoder", "cooldown", "data", "dit", "distil", "decoder", "scorer", "export")
BESIDE = ("parts", "blend", "look", "pack", "unpack")
"""What can be done with a run besides; parts: all stages, so many minutes a call, for a card (`make train-gpu`)."""
ABLATION_STEPS = 300
MINUTES = {"autoencoder": 240.0, "cooldown": 30.0, "dit": 590.0, "distil": 11.0, "decoder": 75.0}
"""Length of the stages on two CPU cores, all their runs together."""
SHARDS = 48
SHARE = 0.35
"""Of a new run in its blend with the model it went on from: what shipped."""
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "embedded"
BANDS = Path(__file__).parent / "bands.json"
LOOK = (
    ("a big red ball bounces in the sky",) * 4,
    ("a small yellow star moves to the left in the starry night",) * 4,
    ("a blue square stays still over the sea",) * 2 + ("a big pink heart moves up in the desert",) * 2,
    ("a green ring spins over the snow",) * 4,
)
"""Films drawn while the transformer trains, one prompt a chunk; the third one has a switch."""


def main(arguments: list[str] | None = None) -> int:
    """Run one stage, or the check of all of them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "stage", choices=(*STAGES, *BESIDE, "all", "ablation"), nargs="?", help="what to make; all: the stages"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/training"), help="scratch folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="length of the run; repeats exactly")
    length.add_argument("--minutes", type=float, help="length of the run by the clock (the usual one: see MINUTES)")
    parser.add_argument(
        "--shards", type=int, default=SHARDS, help=f"of {data.SHARDS[data.FRAMES]} films each (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=dit.WORKERS, help="threads of the dit stage (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--target", type=Path, help=f"where export writes ({SHIPPED}), look (OUT/look.png) or pack (OUT/packed)"
    )
    parser.add_argument("--run", default="autoencoder", help="name of the run to pack or unpack (%(default)s)")
    parser.add_argument(
        "--start_from",
        type=Path,
        help="go on from this model's or run's weights (dit, ablation) and autoencoder (autoencoder, data), or blend "
        "with them, or look at them; unpack: the folder to unpack",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        help="a model whose latents are the new one's first channels (autoencoder), and whose flow is theirs (distil)",
    )
    parser.add_argument(
        "--share", type=float, default=SHARE, help="of the new weights in a blend with --start_from (%(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=1.0,
        help="of learning, over the usual one (autoencoder, cooldown, dit, ablation); less to go on",
    )
    parser.add_argument(
        "--batch", type=int, default=dit.BATCH, help="windows a step (dit, distil, ablation; %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="run every stage small and compare with bands.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            return check(Path(folder))
    if options.stage is None:
        parser.error(f"say a stage ({', '.join((*STAGES, *BESIDE))}, all, ablation) or --check")
    if options.stage == "blend" and options.start_from is None:
        parser.error("say with --start_from which model's folder to blend the run with")
    if options.stage == "autoencoder" and options.keep is not None and options.start_from is None:
        parser.error("say with --start_from which model's autoencoder gets one halving more")
    if options.stage == "unpack" and options.start_from is None:
        parser.error("say with --start_from which folder to unpack")
    try:
        if options.stage == "parts":
            return _part(options)
        for stage in STAGES if options.stage == "all" else (options.stage,):
            run(stage, options)
    except (FileNotFoundError, FileExistsError) as error:
        parser.error(str(error))
    return 0


def _part(options: argparse.Namespace) -> int:
    """One part of the recipe on a card, and what comes next."""
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA card here; on a processor: python -m training all.", file=sys.stderr)
        return 2
    sizes = parts.Sizes(minutes=options.minutes or parts.MINUTES)
    missing = parts.next_part(
        options.out, seed=options.seed, device=options.device, start_from=options.start_from, sizes=sizes
    )
    if missing:
        print(f"Not finished yet: {', '.join(missing)}. The same command goes on; {options.out / parts.PACKED} is all")
        print("that it needs of this folder.")
    else:
        print(f"The model is in {options.out / 'embedded'}.")
    return 0


def run(stage: str, options: argparse.Namespace) -> None:
    """One stage with a person's options."""
    minutes = None if options.steps else (options.minutes or MINUTES.get(stage))
    if stage in ("autoencoder", "cooldown"):
        first = stage == "autoencoder"
        train = autoencoder.train_autoencoder if first else autoencoder.cool_autoencoder
        train(
            options.out,
            seed=options.seed,
            steps=options.steps,
            minutes=minutes,
            device=options.device,
            rate=options.rate,
            **({"start_from": options.start_from, "keep": options.keep} if first else {}),
        )
    elif stage == "decoder":
        autoencoder.train_decoder(
            options.out,
            seed=options.seed,
            steps=options.steps,
            minutes=minutes,
            device=options.device,
            redraw=Redraw(load_denoiser(options.out, newest(options.out)).to(options.device)),
        )
    elif stage == "data":
        if options.start_from is not None and not (options.out / "autoencoder").exists():
            shutil.copytree(options.start_from / "autoencoder", options.out / "autoencoder")
        for frames, films in data.SHARDS.items():
            data.make_data(options.out, seed=options.seed, shards=options.shards, films=films, frames=frames)
    elif stage == "ablation":
        ablation.make_held_out(options.out, options.seed)
        steps = options.steps or ABLATION_STEPS
        found = ablation.ablate(
            options.out,
            steps=steps,
            seed=options.seed,
            device=options.device,
            workers=options.workers,
            start_from=options.start_from,
            rate=options.rate,
            batch_size=options.batch,
        )
        rich.print(ablation.table(found))
    elif stage in ("dit", "distil"):
        model = AutoencoderTAEHV.from_pretrained(options.out / "autoencoder").eval()

        def look(denoiser: Denoiser, step: int) -> None:
            steps, guidance = (STEPS, 1.0) if stage == "distil" else (2 * STEPS, GUIDANCE)
            films = sample(denoiser, LOOK, steps=steps, guidance=guidance)
            save_grid(options.out / f"{stage}-{step:06d}.png", model, films, zoom=1)

        threads = torch.get_num_threads()
        torch.set_num_threads(1 if options.device == "cpu" else threads)  # the batch is split over workers instead
        shared = {
            "seed": options.seed,
            "steps": options.steps,
            "minutes": minutes,
            "device": options.device,
            "workers": options.workers,
            "batch_size": options.batch,
            "look": look,
        }
        if stage == "dit":
            dit.train_dit(options.out, **shared, start_from=options.start_from, rate=options.rate)
        else:
            train_distil(options.out, **shared, keep=options.keep)
        torch.set_num_threads(threads)
    elif stage == "look":
        folder = (options.start_from or options.out) / "autoencoder"
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; run `python -m training cooldown` first.")
        model = AutoencoderTAEHV.from_pretrained(folder).eval()
        print(json.dumps(autoencoder.held_out(model, options.target or options.out / "look.png"), indent=1))
    elif stage == "pack":
        for path in pack.pack(options.out, options.run, options.target or options.out / "packed"):
            print(path)
    elif stage == "unpack":
        print(pack.unpack(options.start_from, options.run, options.out))
    elif stage == "blend":
        blend(options.out, options.start_from, options.share)
    elif stage == "scorer":
        given = {"steps": options.steps} if options.steps else {}
        scorer_training.train_scorer(options.out / "scorer", seed=options.seed, start_from=scorer.WEIGHTS, **given)
    else:
        print(json.dumps(export.export(options.out, options.target or SHIPPED), indent=1))


def check(folder: Path) -> int:
    """Run the recipe at a fixed small size and hold each figure against its recorded band."""
    bands = json.loads(BANDS.read_text(encoding="utf-8"))
    found = small_recipe(folder)
    failed = 0
    for name, value in found.items():
        if name not in bands:
            print(f"{name:24} {value:10.4f}   no band recorded yet")
            continue
        low, high = bands[name]
        good = low <= value <= high
        failed += not good
        print(f"{name:24} {value:10.4f}   {low} .. {high}   {'ok' if good else 'OUTSIDE'}")
    return 1 if failed else 0


def small_recipe(folder: Path) -> dict[str, float]:
    """Every stage for a few steps in `folder`; returns the figures that bands.json bounds."""
    autoencoder.train_autoencoder(folder, seed=0, steps=30, log_every=1)
    autoencoder.cool_autoencoder(folder, seed=0, steps=10, log_every=1)
    data.make_data(folder, seed=0, shards=2, films=8)
    data.make_data(folder, seed=0, shards=2, films=16, frames=data.FIRST)
    data.make_data(folder, seed=0, shards=2, films=18, frames=data.PICTURE)
    data.make_data(folder, seed=0, shards=2, films=8, frames=data.TURN)
    dit.train_dit(folder, seed=0, steps=40, log_every=1, batch_size=4)
    train_distil(folder, seed=0, steps=12, log_every=1, batch_size=4)
    redraw = Redraw(load_denoiser(folder, "distil"))
    autoencoder.train_decoder(folder, seed=0, steps=10, log_every=1, redraw=redraw)
    scorer_training.train_scorer(folder / "scorer", steps=30, seed=0, log_every=10)
    export.export(folder, folder / "embedded")
    size = sum(file.stat().st_size for file in (folder / "embedded").rglob("*.safetensors"))
    return {
        "autoencoder_loss": _mean(folder / "cooldown.jsonl", "picture"),
        "dit_loss": _mean(folder / "dit.jsonl", "loss"),
        "distil_loss": _mean(folder / "distil.jsonl", "loss"),
        "decoder_loss": _mean(folder / "decoder.jsonl", "loss"),
        "scorer_loss": _mean(folder / "scorer" / "scorer.jsonl", "loss", last=1),
        "exported_megabytes": size / 1e6,
    }


def _mean(curve: Path, name: str, last: int = 10) -> float:
    lines = [json.loads(line) for line in curve.read_text("utf-8").splitlines()]
    values = [line[name] for line in lines if name in line][-last:]
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
