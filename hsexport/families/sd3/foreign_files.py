"""Single files that users take for an SD3 checkpoint, each refused by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import ORIGINAL, TensorHeader
from hsexport.families.sd3.config import FAMILY

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# Parts of tensors' names, what a file with such names is, and what to do; the first that occurs tells.
ADDITIONS = (
    (("lora_A", "lora_B", "lora_down", "lora_up", ".lokr_", ".hada_"), "a LoRA", "fuse it into a model: --lora {file}"),
    (("control_", "controlnet"), "a ControlNet", FAMILY),
)
OTHER_MODELS = (
    (("conditioner.embedders.",), "a Stable Diffusion XL checkpoint", FAMILY),
    (("input_blocks.", "down_blocks."), "a UNet, which SD3 does not have", FAMILY),
    (("double_blocks.", "single_transformer_blocks."), "a Flux checkpoint", FAMILY),
    (("double_layers.",), "an AuraFlow checkpoint", FAMILY),
    (("time_text_embed.",), "one file of a diffusers directory", "give the directory with its config.json: {parent}"),
)


def check_is_sd3(file: Path, headers: Iterable[TensorHeader]) -> None:
    """Refuses a safetensors file without an SD3 transformer, or with one that is quantised."""
    headers = list(headers)
    blocks = [header for header in headers if "joint_blocks." in header.name]
    for fragments, kind, hint in ADDITIONS if blocks else ADDITIONS + OTHER_MODELS:
        if any(fragment in header.name for header in headers for fragment in fragments):
            raise PairError(f"{file} is {kind}, expected an SD3 checkpoint", hint.format(file=file, parent=file.parent))
    if not blocks:
        raise PairError(f"{file} holds no joint_blocks, expected an SD3 checkpoint", FAMILY)
    quantised = next((header for header in blocks if header.dtype not in FLOATS), None)
    if quantised is not None:
        kind = "fp8" if quantised.dtype.startswith("F8") else quantised.dtype
        raise PairError(f"{file} is quantised: tensor {quantised.name} is {kind}", ORIGINAL)
