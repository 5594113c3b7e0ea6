"""What must stay in fp32 or in more bits than the rest of this family's networks."""

from __future__ import annotations

from hsengines.weights import FORMATS, UNQUANTIZED
from hsexport.networks.network import Fp32Rule, WeightRule

TIME = "neighbouring steps differ in the fourth digit"
TRANSFORMER_FP32 = (
    Fp32Rule("timestep embedding", ("time_guidance_embed*",), reason=TIME),
    Fp32Rule("rotary positions", ("turned*",), reason="diffusers turns queries and keys in fp32"),
)
QWEN3_FP32 = (
    Fp32Rule(
        "Qwen3's residual stream",
        ("layers.[0-9]*",),
        operators=("Add",),
        precisions=("fp16",),
        reason="a few of its numbers grow past fp16",
    ),
    Fp32Rule(
        "Qwen3's output products",
        ("layers.*.mlp.down_proj",),
        precisions=("fp16",),
        reason="they make what the stream overflows by",
    ),
)
ALL, FEW_BITS = tuple(FORMATS), ("int4", "nvfp4")
TEXT_TABLES = ("embed_tokens",)


def transformer_weight_rules(layers: int, single_layers: int) -> tuple[WeightRule, ...]:
    """Of a transformer of so many joint and single-stream blocks."""
    outer = ("transformer_blocks.0.*", f"single_transformer_blocks.{single_layers - 1}.*")
    return (
        WeightRule(("time_guidance_embed.*",), ALL, UNQUANTIZED, TIME),
        WeightRule(("x_embedder",), ALL, UNQUANTIZED, "a token's numbers are few"),
        WeightRule(("proj_out",), ALL, UNQUANTIZED, "its error is the velocity's"),
        WeightRule(("*stream_modulation*", "norm_out.linear", "context_embedder"), ALL, "int8", "read once a picture"),
        WeightRule(outer if layers else outer[1:], FEW_BITS, "int8", "first and last blocks err most"),
    )
