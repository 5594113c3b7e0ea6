"""diffusers' SD3 transformer on some of a picture's tokens, with its own blocks: only the attention processor is ours.

As RAS's authors do to diffusers (arXiv 2502.10389): idle tokens are left out of the stream, and each layer keeps their
keys and values from the last time they were computed.
"""

import torch
from diffusers import SD3Transformer2DModel


class RememberingProcessor:
    """Attention whose image keys and values are renewed for the tokens that come, and stand still for the others."""

    def __init__(self):
        self.key = self.value = None  # (rows, N, heads, D), of every token
        self.active = None  # (rows, M) tokens that come, or None for all

    def remember(self, kept, fresh):
        if self.active is None:
            return fresh.clone()
        places = self.active[:, :, None, None].expand(-1, -1, *fresh.shape[2:])
        return kept.scatter(1, places, fresh)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        def heads(x, norm=None):
            x = x.reshape(len(x), x.shape[1], attn.heads, -1)
            return x if norm is None else norm(x)

        came = hidden_states.shape[1]
        query = heads(attn.to_q(hidden_states), attn.norm_q)
        self.key = self.remember(self.key, heads(attn.to_k(hidden_states), attn.norm_k))
        self.value = self.remember(self.value, heads(attn.to_v(hidden_states)))
        key, value = self.key, self.value
        if encoder_hidden_states is not None:
            query = torch.cat([query, heads(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)], 1)
            key = torch.cat([key, heads(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)], 1)
            value = torch.cat([value, heads(attn.add_v_proj(encoder_hidden_states))], 1)
        scores = torch.einsum("gqhd,gkhd->ghqk", query, key) / query.shape[-1] ** 0.5
        out = torch.einsum("ghqk,gkhd->gqhd", scores.softmax(-1), value).flatten(2)
        image = attn.to_out[0](out[:, :came])
        if encoder_hidden_states is None:
            return image
        text = out[:, came:]
        return image, text if attn.context_pre_only else attn.to_add_out(text)


class SomeTokens:
    """A transformer that remembers; velocities are (rows, tokens, p, p, C)."""

    def __init__(self, folder):
        self.model = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32).eval()
        self.processors = [RememberingProcessor() for _ in self.model.attn_processors]
        self.model.set_attn_processor(dict(zip(self.model.attn_processors, self.processors, strict=True)))
        self.residual = None  # what the middle blocks added to text and image, in the last pass over all tokens

    def __call__(self, latents, timestep, text, pooled, active=None, outer=(1, 1), light=False):
        """Of the `active` tokens (rows, M), or of all; `light` without the blocks between the `outer` ones."""
        model = self.model
        x = model.pos_embed(latents)
        if active is not None:
            x = x.gather(1, active[:, :, None].expand(-1, -1, x.shape[2]))
        kept = [(processor.key, processor.value) for processor in self.processors]
        for processor in self.processors:
            processor.active = active
        temb = model.time_text_embed(timestep.expand(len(x)), pooled)
        text = model.context_embedder(text)
        first, last = outer[0], len(model.transformer_blocks) - outer[1]
        for number, block in enumerate(model.transformer_blocks):
            if number == first:
                before = text, x
                if light:
                    text, x = text + self.residual[0], x + self.residual[1]
            if not (light and first <= number < last):
                text, x = block(hidden_states=x, encoder_hidden_states=text, temb=temb)
            if number == last - 1 and active is None and not light:
                self.residual = text - before[0], x - before[1]
        if light:  # what is remembered stays that of whole passes
            for processor, (key, value) in zip(self.processors, kept, strict=True):
                processor.key, processor.value = key, value
        out = model.proj_out(model.norm_out(x, temb))
        p = model.config.patch_size
        return out.reshape(*out.shape[:2], p, p, model.config.out_channels)


def picture_from(tokens, like):
    """Tokens (B, h*w, p, p, C) as latents shaped as `like` (B, C, h*p, w*p)."""
    p = tokens.shape[2]
    h, w = like.shape[2] // p, like.shape[3] // p
    grid = tokens.reshape(len(tokens), h, w, p, p, -1)
    return torch.einsum("bhwpqc->bchpwq", grid).reshape(like.shape)
