"""The pair: two transformers that share one latent space, and the parts they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .check import check_pair, shared_parts
from .config import SchedulerConfig, VaeConfig, scheduler_config_from, vae_config_from
from .downloads import DOWNLOADS, Fetcher
from .member import Member, read_member


@dataclass(frozen=True)
class Pair:
    """A large and a small member that belong together; `shared` maps part names to directories."""

    large: Member
    small: Member
    shared: Mapping[str, Path]
    scheduler: SchedulerConfig
    vae: VaeConfig


def load_pair(large: str, small: str, without: Collection[str] = (), fetcher: Fetcher = DOWNLOADS) -> Pair:
    """Finds both members (a directory, a hub id or `demo`) and checks that they belong together.

    Reads configurations and safetensors headers alone: whether a part that both members bring holds the same numbers,
    check_same_weights tells.
    Weights of the parts in `without` are neither downloaded nor looked at: nobody will read them. What is
    fetched of a hub id, `fetcher` decides.
    """
    members = read_member("large", large, without, fetcher), read_member("small", small, without, fetcher)
    check_pair(*members, without)
    shared = shared_parts(*members)
    return Pair(*members, shared, scheduler_config_from(shared["scheduler"]), vae_config_from(shared["vae"]))
