"""What experience says must be stored in more bits than the rest of this family's networks."""

from __future__ import annotations

from hsengines.weights import FORMATS, UNQUANTIZED
from hsexport.networks.network import WeightRule

ALL, FEW_BITS = tuple(FORMATS), ("int4", "nvfp4")
TEXT_TABLES = ("*shared", "*embed_tokens", "*token_embedding")
TEXT = (
    WeightRule(("*position_embedding", "*relative_attention_bias"), ALL, UNQUANTIZED, "few rows, read by every token"),
    WeightRule(("*text_projection",), ALL, UNQUANTIZED, "its one answer is what every step is modulated by"),
)
TIME = "time_text_embed.timestep_embedder.*"
READ_ONCE = ("time_text_embed.text_embedder.*", "*norm1*.linear", "norm_out.linear", "context_embedder")


def transformer_weight_rules(layers: int) -> tuple[WeightRule, ...]:
    """Of a transformer of so many layers."""
    outer = tuple(f"transformer_blocks.{number}.*" for number in (0, layers - 1))
    return (
        WeightRule((TIME,), ALL, UNQUANTIZED, "neighbouring steps differ in the fourth digit"),
        WeightRule(("patch_weight",), ALL, UNQUANTIZED, "a token's numbers are few"),
        WeightRule(("proj_out",), ALL, UNQUANTIZED, "its error is the velocity's"),
        WeightRule(READ_ONCE, ALL, "int8", "read once a picture"),
        WeightRule(outer, FEW_BITS, "int8", "first and last blocks err most"),
    )
