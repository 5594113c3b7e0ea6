"""Trains the demo pair from nothing and writes it in diffusers' layout: `scripts/train_demo_pair --help`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, SD3Transformer2DModel
from rich.progress import Progress

from .corpus import Corpus, load_corpus
from .progress import progress_bar
from .sampling import sample, save_sheet
from .scenes import Scenes, scene_latents, scenes_from_corpus
from .text import TextSide, new_text_side, text_side_from
from .transformer import Stage, new_large, new_small, train_stage
from .vae import fit_scaling, train_vae
from .write import write_pair

SHEET_PROMPTS = [
    "red apple", "fox", "tiger", "rocket", "hamburger", "cactus", "red paper lantern", "violin",
    "penguin", "strawberry", "blue book", "birthday cake", "octopus", "taxi", "owl", "teapot",
]  # fmt: skip


# Large learned while its text encoders still moved; small had settled ones from the start and overtook it.
AGAIN_STEPS = 700
AGAIN_RATE = 0.7

# From pictures that fill the canvas to scenes: a third of the names at another size, at a place that the noise decides.
SCENE_ROUNDS = ({"large": 1000, "small": 1200}, {"large": 850, "small": 800})  # steps; the rate falls in each round
SCENE_RATE = 0.8
SCENE_DECAY = 0.5


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
    device: str


@dataclass(frozen=True)
class Pair:
    """Everything that is trained."""

    vae: AutoencoderKL
    text: TextSide
    large: SD3Transformer2DModel
    small: SD3Transformer2DModel


def pictures_tensor(corpus: Corpus, device: str) -> torch.Tensor:
    """The corpus as (count, 3, 128, 128) float32 in -1..1."""
    return torch.from_numpy(corpus.pictures).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


def sheet_writer(plan: Plan, vae: AutoencoderKL) -> Callable[[Stage, int], None]:
    """Writes a contact sheet of a stage's pictures."""

    def on_epoch(stage: Stage, step: int) -> None:
        sheet = sample(stage.model, stage.text, vae, SHEET_PROMPTS, plan.seed)
        save_sheet(plan.work / "sheets" / f"{stage.name}-{step:06d}.png", sheet, columns=8)

    return on_epoch


def train_pair(plan: Plan, corpus: Corpus, progress: Progress) -> Pair:
    """The pair from nothing, on pictures that fill the canvas; each stage continues from its checkpoint."""
    pictures = pictures_tensor(corpus, plan.device)
    vae = train_vae(pictures, plan.work, plan.vae_steps, plan.seed, progress)
    latents, owners = fit_scaling(vae, pictures), torch.arange(len(pictures))
    on_epoch = sheet_writer(plan, vae)
    text = new_text_side(corpus.captions, plan.seed)
    text.encoders.to(plan.device)
    shared = {
        "text": text,
        "captions": corpus.captions,
        "owners": owners,
        "latents": latents,
        "compiled": plan.compiled,
    }
    torch.manual_seed(plan.seed + 1)
    large = Stage(
        "large", new_large().to(plan.device), trains_text=True, steps=plan.large_steps, seed=2 * plan.seed + 1, **shared
    )
    train_stage(large, plan.work, progress, on_epoch)
    text.encoders.requires_grad_(False)
    torch.manual_seed(plan.seed + 2)
    small = Stage(
        "small",
        new_small().to(plan.device),
        trains_text=False,
        steps=plan.small_steps,
        seed=2 * plan.seed + 2,
        **shared,
    )
    train_stage(small, plan.work, progress, on_epoch)
    again = Stage(
        "large-again", large.model, trains_text=False, steps=plan.again_steps, seed=2 * plan.seed + 3, **shared
    )
    again.rate, again.decay_share = AGAIN_RATE, 1.0
    train_stage(again, plan.work, progress, on_epoch)
    return Pair(vae, text, large.model, small.model)


def finished_pair(folder: Path, device: str) -> Pair:
    """A pair that was written before, to go on from."""
    large, small = (
        SD3Transformer2DModel.from_pretrained(folder / name / "transformer", torch_dtype=torch.float32).to(device)
        for name in ("large", "small")
    )
    vae = AutoencoderKL.from_pretrained(folder / "large" / "vae", torch_dtype=torch.float32).to(device).eval()
    text = text_side_from(folder / "large")
    text.encoders.to(device).requires_grad_(False)
    return Pair(vae, text, large, small)


def train_on_scenes(plan: Plan, pair: Pair, scenes: Scenes, progress: Progress, first_round: int) -> None:
    """Both transformers on scenes, the text encoders and the VAE as they are."""
    latents = scene_latents(scenes, pair.vae, plan.work, plan.device)
    for number, steps in enumerate(SCENE_ROUNDS[first_round:], start=first_round):
        for seed, (name, model) in enumerate({"large": pair.large, "small": pair.small}.items()):
            stage = Stage(
                f"{name}-scenes-{number}",
                model.train(),
                pair.text,
                trains_text=False,
                captions=scenes.captions,
                owners=scenes.owners,
                latents=latents,
                steps=steps[name],
                seed=2 * plan.seed + 4 + 2 * number + seed,
                compiled=plan.compiled,
                rate=SCENE_RATE,
                decay_share=SCENE_DECAY,
            )
            train_stage(stage, plan.work, progress, sheet_writer(plan, pair.vae))


def main(
    out: Annotated[Path, typer.Option(help="where the finished pair goes")] = Path("hsexport/demo"),
    work: Annotated[Path, typer.Option(help="checkpoints and contact sheets")] = Path("build/demo-training"),
    start: Annotated[Path | None, typer.Option("--from", help="a finished pair: go on from it with scenes")] = None,
    scene_round: Annotated[int, typer.Option(help="the round of scenes to begin with")] = 0,
    vae_steps: int = 1500,
    large_steps: int = 2600,
    small_steps: int = 2400,
    again_steps: Annotated[int, typer.Option(help="of large once more, on the frozen text encoders")] = AGAIN_STEPS,
    seed: int = 0,
    compiled: Annotated[bool, typer.Option(help="torch.compile the transformers (needs a C++ compiler)")] = True,
) -> None:
    """Trains VAE, large with the text encoders, small, large once more, then both on scenes; a killed run goes on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = Plan(work, vae_steps, large_steps, small_steps, again_steps, seed, compiled, device)
    corpus = load_corpus()
    scenes = scenes_from_corpus(corpus, SHEET_PROMPTS)
    with progress_bar() as progress:
        pair = finished_pair(start, device) if start else train_pair(plan, corpus, progress)
        train_on_scenes(plan, pair, scenes, progress, scene_round)
    write_pair(out, pair.vae, pair.text, pair.large, pair.small, scenes.captions)
    typer.echo(f"the pair lies in {out}")


if __name__ == "__main__":
    typer.run(main)
