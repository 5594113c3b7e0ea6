"""Qwen3 of any shape, and a tokenizer for it without a training text."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

from random_pairs.flux2.shapes import Qwen3Shape

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""What Qwen3's own comes to for one message without tools."""


def new_qwen3(shape: Qwen3Shape, tokenizer: Qwen2TokenizerFast) -> Qwen3ForCausalLM:
    """A language model, whose last layers nobody reads."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=shape.vocabulary or len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            head_dim=shape.head_size,
            max_position_embeddings=40960,
            rope_theta=1000000.0,
            tie_word_embeddings=shape.tied,
        )
    )


def new_qwen_tokenizer() -> Qwen2TokenizerFast:
    """One token a byte, and a few pairs of them."""
    letters = sorted(ByteLevel.alphabet())
    merges = [("a", "p"), ("t", "e"), ("Ġ", "a"), ("Ċ", "Ċ")]
    pieces = [*letters, *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Qwen2TokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL),
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
