"""Training of the judge: cross-entropy over names on pictures drawn anew at every step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress

from demo_training import checkpoint
from demo_training.progress import tell_step
from demo_training.schedule import batch_at, generator_at, learning_rate_scale

from .augmentation import Strengths, augmented
from .network import Judge

BATCH = 64
PEAK_RATE = 4e-3
DECAY_SHARE = 0.6
SMOOTHING = 0.05
SAVE_EVERY = 100


@dataclass(frozen=True)
class Lessons:
    """What the judge learns from: picture i (names, 3, side, side) in ink is name i."""

    ink: torch.Tensor
    steps: int
    seed: int
    strengths: Strengths


def loss_at(judge: Judge, lessons: Lessons, step: int) -> torch.Tensor:
    """The loss of one step's batch; it depends on the seed and the step alone."""
    names = batch_at(lessons.seed, step, BATCH, len(lessons.ink))
    cells = augmented(lessons.ink[names], generator_at(lessons.seed, step), lessons.strengths)
    _, logits = judge(cells.contiguous(memory_format=torch.channels_last))
    return F.cross_entropy(logits, names, label_smoothing=SMOOTHING)


def train_judge(lessons: Lessons, work: Path, progress: Progress) -> Judge:
    """Trains the judge, or goes on from the checkpoint in `work`."""
    torch.manual_seed(lessons.seed)
    judge = Judge(len(lessons.ink)).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), PEAK_RATE, weight_decay=0.01, fused=True)
    path, first = work / "judge.pt", 0
    if state := checkpoint.load(path):
        judge.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    task = progress.add_task("judge", total=lessons.steps, completed=first, note="")
    for step in range(first, lessons.steps):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * learning_rate_scale(step, lessons.steps, DECAY_SHARE)
        loss = loss_at(judge, lessons, step)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        tell_step(progress, task, f"loss {loss.item():.3f}")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == lessons.steps:
            checkpoint.save(path, {"model": judge.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
    return judge.eval()
