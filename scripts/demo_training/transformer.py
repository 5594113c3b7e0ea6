"""A transformer's stages: flow matching on cached latents, or on another transformer's velocities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from rich.progress import Progress
from torch import nn

from . import checkpoint
from .progress import tell_step
from .schedule import DECAY_SHARE, batch_at, generator_at, learning_rate_scale
from .text import TextSide

BATCH = 32
MATRIX_RATE = 1.5e-3
OTHER_RATE = 6e-4
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.1
SIGMA_MEAN, SIGMA_DEVIATION = 0.4, 1.2  # of logit(sigma): a little towards noise, as inference with shift spends it
SHEET_EVERY = 250


@dataclass
class Stage:
    """One transformer's training: what it learns from and what learns along with it."""

    name: str
    model: SD3Transformer2DModel
    text: TextSide
    captions: list[str]
    latents: torch.Tensor  # (count, C, h, w), scaled
    steps: int
    seed: int
    trains_text: bool = False
    teacher: SD3Transformer2DModel | None = None  # whose velocity is learned, in place of the data's
    compiled: bool = False
    rate: float = 1.0  # of the peak learning rates
    decay_share: float = DECAY_SHARE
    token_ids: list[torch.Tensor] = field(init=False)
    empty_ids: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.token_ids = self.text.ids(self.captions)
        self.empty_ids = self.text.ids([""])

    @property
    def trained(self) -> nn.ModuleDict:
        """Everything whose weights this stage changes."""
        parts: dict[str, nn.Module] = {"transformer": self.model}
        if self.trains_text:
            parts["text"] = self.text.encoders
        return nn.ModuleDict(parts)


def _zero_initialise(model: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """Starts every modulation and the output at zero: each block begins as the identity (DiT, adaLN-zero)."""
    for name, module in model.named_modules():
        is_modulation = ".norm1" in name or "norm_out" in name
        if isinstance(module, nn.Linear) and (is_modulation or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def new_transformer(layers: int, heads: int, dual_layers: int) -> SD3Transformer2DModel:
    """An SD3.5-style transformer over 16x16 latents with patch 1: 256 image tokens."""
    return _zero_initialise(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=16,
            out_channels=16,
            num_layers=layers,
            num_attention_heads=heads,
            attention_head_dim=64,
            caption_projection_dim=heads * 64,
            joint_attention_dim=192,
            pooled_projection_dim=192,
            pos_embed_max_size=24,
            qk_norm="rms_norm",
            dual_attention_layers=tuple(range(dual_layers)),
        )
    )


def new_large() -> SD3Transformer2DModel:
    """8 layers of width 192 (10.5 M parameters), single attention, as SD3.5-Large."""
    return new_transformer(layers=8, heads=3, dual_layers=0)


def new_small() -> SD3Transformer2DModel:
    """4 layers of width 128 with dual attention in the first two, as SD3.5-Medium's first half."""
    return new_transformer(layers=4, heads=2, dual_layers=2)


def new_optimisers(trained: nn.ModuleDict) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trained.named_parameters():
        inside = name.startswith("transformer.transformer_blocks") and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def flow_loss(stage: Stage, velocity: Callable[..., torch.Tensor], step: int) -> torch.Tensor:
    """Mean squared error of the velocity at sigma ~ logit-normal (Esser et al. 2024, section 3.1).

    The data's is noise - x0; a teacher's is its mean over all pictures, and spares the student that noise.
    """
    noise_source = generator_at(stage.seed, step)
    picks = batch_at(stage.seed, step, BATCH, len(stage.latents))
    device = stage.latents.device
    x0 = stage.latents[picks.to(device)]
    noise = torch.randn(x0.shape, generator=noise_source).to(device)
    logits = SIGMA_MEAN + SIGMA_DEVIATION * torch.randn(BATCH, generator=noise_source)
    sigma = torch.sigmoid(logits).to(device)
    dropped = torch.rand(BATCH, generator=noise_source) < CAPTION_DROPOUT
    ids = [
        torch.where(dropped[:, None], empty, own[picks]).to(device)
        for own, empty in zip(stage.token_ids, stage.empty_ids, strict=True)
    ]
    with torch.set_grad_enabled(stage.trains_text):
        text, pooled = stage.text.encode(ids)
    x_t = (1 - sigma.view(-1, 1, 1, 1)) * x0 + sigma.view(-1, 1, 1, 1) * noise
    inputs = {
        "hidden_states": x_t,
        "encoder_hidden_states": text,
        "pooled_projections": pooled,
        "timestep": sigma * 1000,
        "return_dict": False,
    }
    target = noise - x0
    with torch.autocast(device.type, torch.bfloat16):
        if stage.teacher:
            with torch.no_grad():
                target = stage.teacher(**inputs)[0].float()
        v = velocity(**inputs)[0]
    return (v.float() - target).square().mean()


class Average:
    """Exponential moving average of a stage's weights, quick to forget the first steps."""

    def __init__(self, trained: nn.ModuleDict) -> None:
        self.weights = {k: v.detach().clone() for k, v in trained.state_dict().items()}

    @torch.no_grad()
    def update(self, trained: nn.ModuleDict, step: int) -> None:
        """Takes in the weights after `step`."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, value in trained.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)


def _state(trained: nn.ModuleDict, optimisers: list, average: Average, step: int) -> dict:
    return {
        "model": trained.state_dict(),
        "average": average.weights,
        "optimisers": [o.state_dict() for o in optimisers],
        "step": step,
    }


def train_stage(stage: Stage, work: Path, progress: Progress, on_epoch: Callable[[Stage, int], None]) -> None:
    """Trains (or goes on training) one transformer; leaves the averaged weights in the stage's modules."""
    trained = stage.trained
    optimisers = new_optimisers(trained)
    average, path, first = Average(trained), work / f"{stage.name}.pt", 0
    if state := checkpoint.load(path):
        trained.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        average.weights = {k: v.to(stage.latents.device) for k, v in state["average"].items()}
        first = state["step"]
    peaks = [MATRIX_RATE, OTHER_RATE]
    velocity = torch.compile(stage.model) if stage.compiled else stage.model
    task, smooth = progress.add_task(stage.name, total=stage.steps, completed=first, note=""), None
    for step in range(first, stage.steps):
        scale = stage.rate * learning_rate_scale(step, stage.steps, stage.decay_share)
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * scale
        loss = flow_loss(stage, velocity, step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        average.update(trained, step)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        tell_step(progress, task, f"loss {smooth:.4f}")
        if (step + 1) % SHEET_EVERY == 0 or step + 1 == stage.steps:
            checkpoint.save(path, _state(trained, optimisers, average, step + 1))
            live = {k: v.detach().clone() for k, v in trained.state_dict().items()}
            trained.load_state_dict(average.weights)
            on_epoch(stage, step + 1)
            trained.load_state_dict(live)
    trained.load_state_dict(average.weights)
