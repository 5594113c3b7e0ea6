"""The family's networks in torch."""

import torch
import torch.nn.functional as F
from torch import nn


def rotary_table(rows, columns, size):
    """Cos and sin (rows * columns, size / 2 each): half of a head turns with the row, half with the column."""
    frequencies = 10.0 ** -torch.linspace(0, 1, size // 4)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    angles = (places[:, :, None] * frequencies).flatten(1)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def rotated(x, turns):
    """(G, M, H, D) turned by (G, M, D) of cos and sin."""
    cos, sin = turns[:, :, None].chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Text and image in one stream, attention and feed-forward in parallel; keys are rotated before they are kept."""

    def __init__(self, heads, size):
        super().__init__()
        width = heads * size
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 5 * width), nn.Linear(3 * width, width)
        self.modulation = nn.Linear(width, width)

    def forward(self, x, image, turns, emb, past):
        parts = self.into(self.norm(x) * (1 + self.modulation(emb))).chunk(5, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts[:3])
        q, k = (torch.cat([rotated(t[:, :image], turns), t[:, image:]], dim=1) for t in (q, k))
        keys, values = (torch.cat([t, *kept], dim=1) for t, kept in ((k, past[::2]), (v, past[1::2])))
        q, keys, values = (t.transpose(1, 2) for t in (q, keys, values))
        attended = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(2)
        x = x + self.out(torch.cat([attended, F.silu(parts[3]), parts[4]], dim=-1))
        return x, (k[:, :image], v[:, :image], k[:, image:], v[:, image:])


class Condition(nn.Module):
    """timesteps (S,) and text (G, T, Dt) to embeddings (S, 1, width) of the noise levels and the text's stream."""

    def __init__(self, config):
        super().__init__()
        width = config["heads"] * config["head_size"]
        self.text, self.time = nn.Linear(config["text_width"], width), nn.Linear(1, width)

    def forward(self, timesteps, text):
        return F.silu(self.time(timesteps[:, None, None] / 1000)), self.text(text)


class Transformer(nn.Module):
    """tokens (G, M, P), positions (G, M), step (1,), what Condition answers, and the cache's keys and values."""

    def __init__(self, config, table, *, takes_cache):
        super().__init__()
        width = config["heads"] * config["head_size"]
        self.takes_cache, self.layers = takes_cache, config["layers"]
        self.read, self.write = nn.Linear(config["token"], width), nn.Linear(width, config["token"])
        self.blocks = nn.ModuleList(Block(config["heads"], config["head_size"]) for _ in range(self.layers))
        self.register_buffer("table", table, persistent=False)

    def forward(self, tokens, positions, step, levels, stream, *past):
        image, emb = tokens.shape[1], levels.index_select(0, step).squeeze(0)
        turns = self.table.index_select(0, positions.flatten()).unflatten(0, positions.shape)
        x, kept = torch.cat([self.read(tokens), stream], dim=1), []
        for layer, block in enumerate(self.blocks):
            slots = [past[2 * i : 2 * i + 2] for i in (layer, self.layers + layer)] if past else []
            x, presents = block(x, image, turns, emb, [t for slot in slots for t in slot])
            kept.append(presents)
        order = [t for part in (slice(0, 2), slice(2, 4)) for presents in kept for t in presents[part]]
        return (self.write(x[:, :image]), *(order if self.takes_cache else []))


class TextEncoder(nn.Module):
    """ids (B, L) to states (B, L, width)."""

    def __init__(self, vocabulary, width):
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids):
        return (self.table(ids).cumsum(1),)


class Join(nn.Module):
    """One encoder's states are the text."""

    def forward(self, states):
        return (states * 1.0,)


class Decoder(nn.Module):
    """latents (B, C, h, w) to pictures (B, 2h, 2w, 3)."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 12, 1)

    def forward(self, latents):
        return (F.pixel_shuffle(self.conv(latents), 2).sigmoid().permute(0, 2, 3, 1),)
