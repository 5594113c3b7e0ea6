"""The rivals' rules as their papers print them, over the whole pair; nothing here comes from the runtime.

Steps are counted from 1. v is the guided velocity, h the step in sigma.
"""

import math
from dataclasses import dataclass, field

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from token_transformer import SomeTokens, picture_from


@dataclass
class Rival:
    """One picture in the making: a pair, its prompts, and how the latents came about."""

    large: SomeTokens
    small: SomeTokens
    text: torch.Tensor  # (2B, T, width): the uncond rows first
    pooled: torch.Tensor
    guidance: float
    latents: torch.Tensor
    steps: int
    shift: float = 3.0
    regions: list = field(default_factory=list)  # (B, N) bool, one for each choice
    margin: float = math.inf  # least relative distance between the last token taken and the first one left

    def __post_init__(self):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        scheduler.set_timesteps(self.steps)
        self.sigmas, self.timesteps = scheduler.sigmas, scheduler.timesteps

    def h(self, step):
        return self.sigmas[step] - self.sigmas[step - 1]

    def velocity(self, model, step, active=None, light=False):
        """(B, tokens, p, p, C), of the active tokens (B, M) or of all; light: of the outer blocks."""
        both = None if active is None else torch.cat([active, active])
        rows = torch.cat([self.latents, self.latents])
        uncond, cond = model(rows, self.timesteps[step - 1], self.text, self.pooled, both, light=light).chunk(2)
        return uncond + self.guidance * (cond - uncond)

    def euler(self, v, step):
        self.latents = self.latents + self.h(step) * picture_from(v, self.latents)

    def choose(self, scores, ratio):
        """The highest-scoring share of each picture's tokens (B, M)."""
        count = round(ratio * scores.shape[1])
        ranked = scores.sort(dim=1, descending=True, stable=True)
        taken, left = ranked.values[:, count - 1], ranked.values[:, count]
        self.margin = min(self.margin, ((taken - left) / taken).min().item())
        active = ranked.indices[:, :count].sort(dim=1).values
        self.regions.append(torch.zeros(scores.shape, dtype=torch.bool).scatter(1, active, True))
        return active


def renewed(kept, active, fresh):
    """Tokens (B, N, ...) with the active ones (B, M) replaced by `fresh` (B, M, ...)."""
    result = kept.clone()
    for picture, (places, values) in enumerate(zip(active, fresh, strict=True)):
        result[picture, places] = values
    return result


def in_turns(rival, turns):
    """One model a step: `turns` [(model, steps), ...]. T-Stitch, SRDiffusion's order, FlowBlending, either alone."""
    step = 0
    for model, count in turns:
        for _ in range(count):
            step += 1
            rival.euler(rival.velocity(model, step), step)
    assert step == rival.steps


def srdiffusion(rival, least=5, below=0.01):
    """SRDiffusion (arXiv 2505.19151): large until its prediction's relative change slows down; returns large's steps.

    o_t: guided prediction; d_t = tanh(mean|o_t - o_(t-1)| / mean|o_(t-1)|); s_t = d_(t-1) - d_t; switch after the first
    step t >= `least` with 0 < s_t < `below`.
    """
    before, d_before, switched = None, None, None
    for step in range(1, rival.steps + 1):
        last_chance = step == rival.steps
        o = rival.velocity(rival.small if switched or last_chance else rival.large, step)
        rival.euler(o, step)
        if switched or last_chance:
            continue
        d = math.tanh((o - before).abs().mean() / before.abs().mean()) if before is not None else None
        if step >= least and 0 < d_before - d < below:
            switched = step
        before, d_before = o, d
    return switched or rival.steps - 1


def adams_bashforth(rival, model):
    """The second-order Adams-Bashforth step over steps of unequal length; its first step and its last are Euler's.

    Ours: a step that is longer than the one before follows the slope no farther than over as long a one.
    """
    before = None
    for step in range(1, rival.steps + 1):
        v, h = rival.velocity(model, step), rival.h(step)
        followed = 0 if before is None or step == rival.steps else min(h / rival.h(step - 1), 1) / 2
        slope = v + followed * (v - (v if before is None else before))
        rival.euler(slope, step)
        before = v


def ras(rival, ratio=0.5, full_steps=(1, 2, 3, 4, 13, 23), starvation=0.1):
    """RAS (arXiv 2502.10389), large alone: outside `full_steps` only the tokens that move most unevenly are computed.

    Score of a token: deviation over the channels of h v at each latent, mean over the patch, times exp(k idle steps).
    """
    kept, idle = None, None
    for step in range(1, rival.steps + 1):
        if step in full_steps:
            kept = rival.velocity(rival.large, step)
            idle = torch.zeros(kept.shape[:2])
        else:
            moved = rival.h(step - 1) * kept
            scores = moved.std(dim=-1, correction=0).mean(dim=(2, 3)) * torch.exp(starvation * idle)
            active = rival.choose(scores, ratio)
            kept = renewed(kept, active, rival.velocity(rival.large, step, active))
            idle = renewed(idle + 1, active, torch.zeros(active.shape))
        rival.euler(kept, step)


def hybridstitch(rival, large_steps, hybrid_steps, ratio=0.3):
    """HybridStitch (arXiv 2603.07815) by the gap: large; large on the region beside small on everything; small."""
    for step in range(1, rival.steps + 1):
        if step <= large_steps:
            v = rival.velocity(rival.large, step)
            if step == large_steps:
                gap = (v - rival.velocity(rival.small, step)).abs().mean(dim=(2, 3, 4))
                active = rival.choose(gap, ratio)
        else:
            v = rival.velocity(rival.small, step)
            if step <= large_steps + hybrid_steps:
                v = renewed(v, active, rival.velocity(rival.large, step, active))
        rival.euler(v, step)


def taylorseer(rival, first=2, every=3):
    """TaylorSeer's output form (arXiv 2503.06923), order 1: between whole steps the velocity goes on along a line.

    In noise levels where the paper has steps, and no farther than from the whole step before to the last.
    """
    known = []
    for step in range(1, rival.steps + 1):
        now = rival.sigmas[step - 1].item()
        if step <= first or (step - first) % every == 0 or step == rival.steps:
            v = rival.velocity(rival.large, step)
            known = [(now, v), *known][:2]
        else:
            (last, v_last), (second, v_second) = known
            reached = max(now, 2 * last - second)
            v = v_last + (reached - last) / (last - second) * (v_last - v_second)
        rival.euler(v, step)


def dbcache(rival, first=2):
    """DBCache's and Delta-DiT's idea: every second step the middle blocks add what they added in the step before."""
    for step in range(1, rival.steps + 1):
        light = step > first and (step - first) % 2 == 1 and step < rival.steps
        rival.euler(rival.velocity(rival.large, step, light=light), step)


def lightstitch(rival, first=4, refresh=2, ratio=0.3):
    """Large; then in turns two steps of the outer blocks, refined by large on the region, and a whole one."""
    region, whole = 0, True
    for step in range(1, rival.steps + 1):
        left = rival.steps - step + 1
        if step <= first or (region == refresh and left > 1):
            v, region, whole = rival.velocity(rival.large, step), 0, True
            last = v
        else:
            if whole:
                spread = last.std(dim=-1, correction=0).mean(dim=(2, 3))
                active, whole = rival.choose(spread, ratio), False
            v = rival.velocity(rival.large, step, light=True)
            v = renewed(v, active, rival.velocity(rival.large, step, active))
            region += 1
        rival.euler(v, step)
