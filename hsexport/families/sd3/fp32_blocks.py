"""What experience says must stay in fp32 of this family's networks."""

from __future__ import annotations

from hsexport.networks.network import Fp32Rule

T5 = (
    Fp32Rule(
        "T5's gelu", ("*.DenseReluDense.act",), precisions=("fp16",), reason="it cubes its input: fp16 ends at 40"
    ),
    Fp32Rule("T5's output products", ("*.DenseReluDense.wo",), precisions=("fp16",), reason="known to overflow fp16"),
    Fp32Rule(
        "T5's residual stream",
        ("*.block.*.layer.[0-9]",),
        operators=("Add",),
        precisions=("fp16",),
        reason="it sums what overflows fp16",
    ),
)


def transformer_rules(layers: int) -> tuple[Fp32Rule, ...]:
    """Of a transformer of so many layers."""
    embedding = Fp32Rule(
        "timestep embedding",
        ("time_text_embed.time_proj*", "time_text_embed.timestep_embedder*"),
        reason="neighbouring steps differ in the fourth digit",
    )
    block = Fp32Rule(
        "SD3.5-Large's block 35",
        ("transformer_blocks.35", "transformer_blocks.35.*"),
        precisions=("fp16",),
        reason="its activations are known to leave fp16",
    )
    return (embedding, block) if layers == 38 else (embedding,)
