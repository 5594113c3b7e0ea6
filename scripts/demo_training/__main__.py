"""Trains the demo pair from nothing and writes it in diffusers' layout: `scripts/train_demo_pair --help`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderKL

from .corpus import Corpus, load_corpus
from .progress import progress_bar
from .sampling import sample, save_sheet
from .text import TextSide, new_text_side
from .transformer import Stage, new_large, new_small, train_stage
from .vae import fit_scaling, train_vae
from .write import write_pair

SHEET_PROMPTS = [
    "red apple", "fox", "tiger", "rocket", "hamburger", "cactus", "red paper lantern", "violin",
    "penguin", "strawberry", "blue book", "birthday cake", "octopus", "taxi", "owl", "teapot",
]  # fmt: skip


FOLDER = click.Path(path_type=Path)
# Large learned while its text encoders still moved; small had settled ones from the start and overtook it.
AGAIN_STEPS = 700
AGAIN_RATE = 0.7


@dataclass(frozen=True)
class Plan:
    """Where to train and for how long."""

    work: Path
    vae_steps: int
    large_steps: int
    small_steps: int
    again_steps: int
    seed: int
    compiled: bool


def pictures_tensor(corpus: Corpus, device: str) -> torch.Tensor:
    """The corpus as (count, 3, 128, 128) float32 in -1..1."""
    return torch.from_numpy(corpus.pictures).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


def train(plan: Plan, corpus: Corpus, device: str) -> tuple[AutoencoderKL, TextSide, Stage, Stage]:
    """Runs the stages; each continues from its checkpoint."""
    pictures = pictures_tensor(corpus, device)
    with progress_bar() as progress:
        vae = train_vae(pictures, plan.work, plan.vae_steps, plan.seed, progress)
        latents = fit_scaling(vae, pictures)

        def on_epoch(stage: Stage, step: int) -> None:
            sheet = sample(stage.model, stage.text, vae, SHEET_PROMPTS, plan.seed)
            save_sheet(plan.work / "sheets" / f"{stage.name}-{step:06d}.png", sheet, columns=8)

        text = new_text_side(corpus.captions, plan.seed)
        text.encoders.to(device)
        shared = {"text": text, "captions": corpus.captions, "latents": latents, "compiled": plan.compiled}
        torch.manual_seed(plan.seed + 1)
        large = Stage(
            "large", new_large().to(device), trains_text=True, steps=plan.large_steps, seed=2 * plan.seed + 1, **shared
        )
        train_stage(large, plan.work, progress, on_epoch)
        text.encoders.requires_grad_(False)
        torch.manual_seed(plan.seed + 2)
        small = Stage(
            "small", new_small().to(device), trains_text=False, steps=plan.small_steps, seed=2 * plan.seed + 2, **shared
        )
        train_stage(small, plan.work, progress, on_epoch)
        again = Stage(
            "large-again", large.model, trains_text=False, steps=plan.again_steps, seed=2 * plan.seed + 3, **shared
        )
        again.rate, again.decay_share = AGAIN_RATE, 1.0
        train_stage(again, plan.work, progress, on_epoch)
    return vae, text, large, small


@click.command(context_settings={"show_default": True})
@click.option("--out", type=FOLDER, default=Path("hsexport/demo"), help="where the finished pair goes")
@click.option("--work", type=FOLDER, default=Path("build/demo-training"), help="checkpoints and contact sheets")
@click.option("--vae-steps", default=1500)
@click.option("--large-steps", default=2600)
@click.option("--small-steps", default=2400)
@click.option("--again-steps", default=AGAIN_STEPS, help="of large once more, on the frozen text encoders")
@click.option("--seed", default=0)
@click.option("--compiled/--no-compiled", default=True, help="torch.compile the transformers (needs a C++ compiler)")
def main(out: Path, work: Path, **asked: Any) -> None:
    """Trains VAE, large with the text encoders, small, and large once more; killed anywhere, it goes on from there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = Plan(work, **asked)
    corpus = load_corpus()
    vae, text, large, small = train(plan, corpus, device)
    write_pair(out, vae, text, large.model, small.model, corpus.captions)
    click.echo(f"the pair lies in {out}")


if __name__ == "__main__":
    main()
