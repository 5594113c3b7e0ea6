"""Weights by the names that a network's module has for them: of a member's transformer, and of what surrounds it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsexport.checkpoints.shards import TensorHeader
from hsexport.checkpoints.weights import Origin, Weight, Weights, stored
from hsexport.checkpoints.weights.adapter import Adapter, fused
from hsexport.families.agreement import WRITER
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsruntime.facts import TextSlot


def member_weights(member: Member, adapters: tuple[Adapter, ...], reads: Callable[[str], bool]) -> Weights:
    """Those that one of a member's networks reads, as the checkpoint has them; `adapters` are fused first."""
    return fused_weights(member.directory.transformer, member.tensors, member.role, adapters, reads)


def encoder_weights(
    recipe: Recipe, slot: TextSlot, folder: Path, reads: Callable[[str], bool] | None = None
) -> Weights:
    """Those that a text encoder's network reads, under the names that LoRAs have for them; LoRAs are fused first."""
    tensors, _ = recipe.pair.family.encoder_tensors(recipe.pair, slot)
    adapters = tuple(adapter for ours in recipe.adapters.values() for adapter in ours)
    return fused_weights(folder, tensors, slot.engine, adapters, reads or tensors.__contains__)


def fused_weights(
    folder: Path,
    tensors: Mapping[str, TensorHeader],
    part: str,
    adapters: tuple[Adapter, ...],
    reads: Callable[[str], bool],
) -> Weights:
    """Those of a part that `reads` names, with the adapters added that change the part."""
    sources = {name: header for name, header in tensors.items() if reads(name)}
    ours = [adapter for adapter in adapters if part in adapter.updates]
    headers = {name: stored(header) for name, header in tensors.items()}
    whole: dict[str, Weight] = fused(headers, [adapter.updates[part] for adapter in ours])
    read, digests = {name: whole[name] for name in sources}, tuple(adapter.digest for adapter in ours)
    origins = {name: Origin.as_it_lies(name, weight) for name, weight in read.items()}
    return Weights(folder, read, sources, digests, origins)


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The same numbers by the names that a module has for them: module's name -> the one before, maybe several."""
    return replace(
        weights,
        tensors={ours: weights[theirs] for ours, theirs in names.items()},
        origins={ours: weights.origins[theirs] for ours, theirs in names.items()},
    )


OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
MODERN = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern(name: str) -> str:
    """What diffusers calls a tensor of a VAE that an older diffusers wrote, whose attention had other names."""
    return OLD_ATTENTION.sub(lambda found: f"{found[1]}.{MODERN[found[2]]}.", name)


def config_fact(document: Mapping[str, Any]) -> dict[str, str]:
    """What shapes the module, as a fact of the build key: the configuration without who wrote it."""
    shaping = {key: value for key, value in document.items() if key not in WRITER}
    return {"config": json.dumps(shaping, sort_keys=True)}
