"""Trains the judge from nothing and writes it beside the demo pair: `scripts/train_judge --help`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from onnxruntime import InferenceSession
from PIL import Image, ImageFilter

from demo_training.corpus import PICTURE_SIZE, load_corpus
from demo_training.progress import progress_bar
from hsexport.build.quiet import hush_libraries

from .augmentation import Strengths
from .network import ink_from_pictures
from .training import Lessons, train_judge
from .write import judged, write_graph, write_reference

FOLDER = click.Path(path_type=Path)
SOFT_RADIUS = 1.5  # pixels
SOFT_NOISE = 12.0  # grey levels


def spoiled(pictures: np.ndarray, seed: int) -> np.ndarray:
    """The pictures blurred and noisy, by other means than the training's."""
    blur, source = ImageFilter.GaussianBlur(SOFT_RADIUS), np.random.default_rng(seed)
    result = np.empty_like(pictures)
    for number, picture in enumerate(pictures):
        soft = np.asarray(Image.fromarray(picture).filter(blur))
        result[number] = (soft + source.normal(0, SOFT_NOISE, soft.shape)).round().clip(0, 255)
    return result


def tell_accuracy(kind: str, logits: np.ndarray, captions: list[str]) -> None:
    """Says how many pictures are given their own name, and which names are not told apart; picture i is name i."""
    named = logits.argmax(axis=1)
    pairs = [(captions[own], captions[other]) for own, other in enumerate(named) if own != other]
    right = 1 - len(pairs) / len(captions)
    click.echo(f"{kind}: {right:.2%} of {len(captions)} pictures named right; confused: {pairs[:8]}")


@click.command(context_settings={"show_default": True})
@click.option("--out", type=FOLDER, default=Path("hsexport/demo/judge"), help="where judge.onnx and reference.npz go")
@click.option("--work", type=FOLDER, default=Path("build/judge-training"), help="the checkpoint")
@click.option("--steps", default=600)
@click.option("--seed", default=0)
@click.option("--threads", default=1, help="of the processor")
def main(out: Path, work: Path, steps: int, seed: int, threads: int) -> None:
    """Trains a classifier of the demo pair's names; a killed run goes on."""
    torch.set_num_threads(threads)
    corpus = load_corpus()
    ink = ink_from_pictures(torch.from_numpy(corpus.pictures)).contiguous()
    with progress_bar() as progress:
        judge = train_judge(Lessons(ink, steps, seed, Strengths()), work, progress)
    with hush_libraries():
        write_graph(out / "judge.onnx", judge, PICTURE_SIZE)
    session = InferenceSession(out / "judge.onnx", providers=["CPUExecutionProvider"])
    features, logits = judged(session, corpus.pictures)
    write_reference(out / "reference.npz", features)
    tell_accuracy("clean", logits, corpus.captions)
    tell_accuracy("blurred and noisy", judged(session, spoiled(corpus.pictures, seed))[1], corpus.captions)
    click.echo(f"the judge lies in {out}")


if __name__ == "__main__":
    main()
