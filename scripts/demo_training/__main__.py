"""Trains the demo pair from nothing and writes it in diffusers' layout: `scripts/train_demo_pair --help`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from rich.progress import Progress

from .corpus import Corpus, load_corpus
from .progress import progress_bar
from .sampling import sample, save_sheet
from .text import TextSide, new_text_side
from .transformer import Stage, new_large, new_small, train_stage
from .vae import fit_scaling, latents_of, scaled, train_decoder, train_vae
from .write import read_pair, write_pair

SHEET_PROMPTS = [
    "red apple", "fox", "tiger", "rocket", "hamburger", "cactus", "red paper lantern", "violin",
    "penguin", "strawberry", "blue book", "birthday cake", "octopus", "taxi", "owl", "teapot",
]  # fmt: skip


FOLDER = click.Path(path_type=Path)
# Large learned while its text encoders still moved; small had settled ones from the start and overtook it.
AGAIN_RATE = 0.7


@dataclass(frozen=True)
class Plan:
    """Where to train and for how long."""

    work: Path
    vae_steps: int
    large_steps: int
    small_steps: int
    again_steps: int
    decoder_steps: int
    longer_steps: int
    distilled_steps: int
    seed: int
    compiled: bool


@dataclass
class Trained:
    """The pair on its way."""

    vae: AutoencoderKL
    text: TextSide
    large: SD3Transformer2DModel
    small: SD3Transformer2DModel


def pictures_tensor(corpus: Corpus, device: str) -> torch.Tensor:
    """The corpus as (count, 3, 128, 128) float32 in -1..1."""
    return torch.from_numpy(corpus.pictures).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


class Training:
    """The stages in order; each continues from its checkpoint."""

    def __init__(self, plan: Plan, corpus: Corpus, progress: Progress) -> None:
        self.plan, self._progress = plan, progress
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._captions = corpus.captions
        self._pictures = pictures_tensor(corpus, self.device)

    def from_nothing(self) -> Trained:
        """VAE, large with the text encoders, small, and large once more."""
        plan = self.plan
        vae = train_vae(self._pictures, plan.work, plan.vae_steps, plan.seed, self._progress)
        fit_scaling(vae, latents_of(vae, self._pictures))
        text = new_text_side(self._captions, plan.seed)
        text.encoders.to(self.device)
        torch.manual_seed(plan.seed + 1)
        large = new_large().to(self.device)
        torch.manual_seed(plan.seed + 2)
        pair = Trained(vae, text, large, new_small().to(self.device))
        self._stage(pair, "large", large, 1, plan.large_steps, trains_text=True)
        text.encoders.requires_grad_(False)
        self._stage(pair, "small", pair.small, 2, plan.small_steps)
        self._stage(pair, "large-again", large, 3, plan.again_steps, rate=AGAIN_RATE, decay_share=1.0)
        return pair

    def longer(self, pair: Trained) -> None:
        """The decoder alone, large, and small on large's velocities; the latents stay what they are."""
        plan = self.plan
        pair.text.encoders.requires_grad_(False)
        train_decoder(pair.vae, self._pictures, plan.work, plan.decoder_steps, plan.seed, self._progress)
        slow = {"rate": AGAIN_RATE, "decay_share": 1.0}
        self._stage(pair, "large-longer", pair.large, 4, plan.longer_steps, **slow)
        self._stage(pair, "small-distilled", pair.small, 5, plan.distilled_steps, teacher=pair.large, **slow)

    def _stage(
        self, pair: Trained, name: str, model: SD3Transformer2DModel, number: int, steps: int, **options: Any
    ) -> None:
        def on_epoch(stage: Stage, step: int) -> None:
            sheet = sample(stage.model, stage.text, pair.vae, SHEET_PROMPTS, self.plan.seed)
            save_sheet(self.plan.work / "sheets" / f"{name}-{step:06d}.png", sheet, columns=8)

        stage = Stage(
            name,
            model,
            text=pair.text,
            captions=self._captions,
            latents=scaled(pair.vae, latents_of(pair.vae, self._pictures)),
            steps=steps,
            seed=2 * self.plan.seed + number,
            compiled=self.plan.compiled,
            **options,
        )
        train_stage(stage, self.plan.work, self._progress, on_epoch)


@click.command(context_settings={"show_default": True})
@click.option("--out", type=FOLDER, default=Path("hsexport/demo"), help="where the finished pair goes")
@click.option("--work", type=FOLDER, default=Path("build/demo-training"), help="checkpoints and contact sheets")
@click.option("--from", "begun", type=FOLDER, help="a finished pair, to go on from with the last three stages alone")
@click.option("--vae-steps", default=1500)
@click.option("--large-steps", default=2600)
@click.option("--small-steps", default=2400)
@click.option("--again-steps", default=700, help="of large once more, on the frozen text encoders")
@click.option("--decoder-steps", default=3000, help="of the VAE's decoder alone")
@click.option("--longer-steps", default=6000, help="of large, longer")
@click.option("--distilled-steps", default=3000, help="of small, on large's velocities")
@click.option("--seed", default=0)
@click.option("--compiled/--no-compiled", default=True, help="torch.compile the transformers (needs a C++ compiler)")
def main(out: Path, work: Path, begun: Path | None, **asked: Any) -> None:
    """Trains VAE, text encoders, large and small; killed anywhere, it goes on from there."""
    corpus = load_corpus()
    with progress_bar() as progress:
        training = Training(Plan(work, **asked), corpus, progress)
        pair = Trained(*read_pair(begun, training.device)) if begun else training.from_nothing()
        training.longer(pair)
    write_pair(out, pair.vae, pair.text, pair.large, pair.small, corpus.captions)
    click.echo(f"the pair lies in {out}")


if __name__ == "__main__":
    main()
