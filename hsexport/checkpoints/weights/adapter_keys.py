"""The names in a LoRA file: PEFT's, diffusers' and kohya's, as modules with two matrices each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.shards import AGAIN, TensorHeader
from hsexport.checkpoints.weights.weight import DTYPES

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "lora_unet_", "lora_transformer_")
SIDES = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
TRANSFORMER_ONLY = "text encoders are not fused: give a LoRA of the transformer alone"
PLAIN_ONLY = "only plain LoRA is fused: give it merged into a checkpoint instead"
# Part of a tensor's name -> what it says of the file.
REFUSED = {
    "text_encoder": ("changes a text encoder", TRANSFORMER_ONLY),
    "lora_te": ("changes a text encoder", TRANSFORMER_ONLY),
    "dora_scale": ("is a DoRA", PLAIN_ONLY),
    "lora_magnitude_vector": ("is a DoRA", PLAIN_ONLY),
    ".lokr_": ("is a LoKr", PLAIN_ONLY),
    ".hada_": ("is a LoHa", PLAIN_ONLY),
}


@dataclass(frozen=True)
class Matrices:
    """One module's part of a LoRA: down is A (rank, in), up is B (out, rank), a convolution's window behind them."""

    module: str
    down: TensorHeader
    up: TensorHeader
    alpha: TensorHeader | None

    @property
    def rank(self) -> int:
        """The extent that both have."""
        return self.down.shape[0]


def matrices_in(file: Path, headers: Iterable[TensorHeader]) -> dict[str, Matrices]:
    """Module, as the file calls it without the prefix -> its matrices. The first foreign name is told."""
    sides: dict[str, dict[str, TensorHeader]] = {}
    for header in headers:
        module, side = _read_name(file, header)
        sides.setdefault(module, {})[side] = header
    if not sides:
        raise PairError(f"{file} is an empty LoRA", AGAIN)
    return {module: _matrices(file, module, found) for module, found in sides.items()}


def _read_name(file: Path, header: TensorHeader) -> tuple[str, str]:
    for fragment, (what, hint) in REFUSED.items():
        if fragment in header.name:
            raise PairError(f"{file} {what}: it holds {header.name}", hint)
    for suffix, side in SIDES.items():
        if header.name.endswith(suffix):
            name = header.name.removesuffix(suffix)
            prefix = next(filter(name.startswith, PREFIXES), "")
            return name.removeprefix(prefix), side
    raise PairError(
        f"{file} holds {header.name}, which is no LoRA's; expected MODULE.lora_A.weight and MODULE.lora_B.weight, "
        "or kohya's lora_unet_MODULE.lora_down.weight and .lora_up.weight",
        "give a LoRA that diffusers, PEFT or kohya's scripts wrote for this transformer",
    )


def _matrices(file: Path, module: str, found: dict[str, TensorHeader]) -> Matrices:
    for side in ("down", "up"):
        if side not in found:
            raise PairError(f"{file} is a broken LoRA: {module} has one of its two matrices alone", AGAIN)
        if len(found[side].shape) < 2 or found[side].dtype not in DTYPES:
            said = f"{found[side].dtype}{list(found[side].shape)}"
            raise PairError(f"{file}: {found[side].name} is {said}, expected a matrix of floats", AGAIN)
    matrices = Matrices(module, found["down"], found["up"], found.get("alpha"))
    if matrices.up.shape[1] != matrices.rank or any(extent != 1 for extent in matrices.up.shape[2:]):
        shapes = f"{list(matrices.up.shape)} and {list(matrices.down.shape)}"
        raise PairError(f"{file} is a broken LoRA: the matrices of {module} are {shapes}, which have no product", AGAIN)
    return matrices
