"""Weights by the names that a network's module has for them: of a member's transformer, and of what surrounds it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from hsexport.checkpoints.weights import Origin, Weight, Weights, stored
from hsexport.checkpoints.weights.adapter import Adapter, fused
from hsexport.families.agreement import WRITER
from hsexport.families.pair import Member


def member_weights(member: Member, adapters: tuple[Adapter, ...], reads: Callable[[str], bool]) -> Weights:
    """Those that one of a member's networks reads, as the checkpoint has them; `adapters` are fused first."""
    sources = {name: header for name, header in member.tensors.items() if reads(name)}
    whole: dict[str, Weight] = fused({name: stored(header) for name, header in member.tensors.items()}, adapters)
    tensors, digests = {name: whole[name] for name in sources}, tuple(adapter.digest for adapter in adapters)
    origins = {name: Origin.as_it_lies(name, weight) for name, weight in tensors.items()}
    return Weights(member.directory.transformer, tensors, sources, digests, origins)


OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
MODERN = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern(name: str) -> str:
    """What diffusers calls a tensor of a VAE that an older diffusers wrote, whose attention had other names."""
    return OLD_ATTENTION.sub(lambda found: f"{found[1]}.{MODERN[found[2]]}.", name)


def config_fact(document: Mapping[str, Any]) -> dict[str, str]:
    """What shapes the module, as a fact of the build key: the configuration without who wrote it."""
    shaping = {key: value for key, value in document.items() if key not in WRITER}
    return {"config": json.dumps(shaping, sort_keys=True)}
