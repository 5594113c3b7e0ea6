"""Weights of a transformer's folder set beside its configuration, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsexport.checkpoints.documents import PairError

OTHER = "config and weights come from different models; download or save it again"


def check_names(transformer: Path, names: Iterable[str]) -> None:
    """Refuses a folder whose tensors have the names of another layout, in words that say which."""
    for name in names:
        if name.startswith(("diffusion_model.", "model.diffusion_model.")):
            raise PairError(
                f"{transformer} holds {name}: names of a single-file checkpoint in a diffusers folder",
                "give the file itself in place of the folder",
            )
        if ".base_layer." in name or ".lora_" in name:
            raise PairError(
                f"{transformer} holds {name}: a PEFT adapter is injected into its modules",
                "fuse and remove it before saving (fuse_lora, then unload_lora_weights), or give it by --lora",
            )


def check_said_is_held(transformer: Path, setting: str, said: list[int], held: list[int]) -> None:
    """Refuses layers that the weights hold otherwise than `setting` says."""
    if said != held:
        raise PairError(
            f"{transformer} is a broken checkpoint: by its config.json ({setting}) layers {layers_in_words(said)} "
            f"have those weights, in its files layers {layers_in_words(held)} do",
            OTHER,
        )


def layers_in_words(layers: list[int]) -> str:
    """`0-23`, `0, 2, 5` or `none`."""
    if not layers:
        return "none"
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]}-{layers[-1]}"
    few = ", ".join(map(str, layers[:40]))
    return few if len(layers) <= 40 else f"{few} and {len(layers) - 40} more"
