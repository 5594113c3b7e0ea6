"""Text encoders and the VAE's halves, wrapped to the tensors StableDiffusion3Pipeline takes from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from hsexport.families.shared.vae_modules import Decoder, Encoder


class ClipEncoder(nn.Module):
    """Ids (B, L) to the last layer but one's states (B, L, width) and the projected end token (B, projection)."""

    def __init__(self, model: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Causal attention only: the pipeline passes no padding mask, so neither does this."""
        out = self.model(ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds


class T5Encoder(nn.Module):
    """Ids (B, L) to states (B, L, width)."""

    def __init__(self, model: T5EncoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        """Without a mask, as the pipeline."""
        return (self.model(ids)[0],)


class JoinText(nn.Module):
    """Joins the three encoders' answers into text (B, T, Dt) and pooled (B, Dp).

    Source: StableDiffusion3Pipeline.encode_prompt: CLIPs side by side, padded to T5's width, then T5 behind them.
    """

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.text_width = text_width

    def forward(
        self, states_1: Tensor, pooled_1: Tensor, states_2: Tensor, pooled_2: Tensor, states_3: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States (B, L, width) and pooled (B, projection) of the CLIPs, states of T5."""
        clip = torch.cat([states_1, states_2], dim=-1)
        clip = F.pad(clip, (0, self.text_width - clip.shape[-1]))
        return torch.cat([clip, states_3], dim=1), torch.cat([pooled_1, pooled_2], dim=-1)


class VaeEncoder(Encoder):
    """To latents as the loop takes them: the posterior's mode, shifted and scaled."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__(vae, 2 ** (len(vae.config.block_out_channels) - 1))
        self.scaling_factor, self.shift_factor = factors(vae)

    def taken(self, mode: Tensor) -> Tensor:
        """As StableDiffusion3Img2ImgPipeline takes it."""
        return (mode - self.shift_factor) * self.scaling_factor


class VaeDecoder(Decoder):
    """From latents as the loop leaves them."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__(vae)
        self.scaling_factor, self.shift_factor = factors(vae)

    def given(self, latents: Tensor) -> Tensor:
        """As StableDiffusion3Pipeline gives it."""
        return latents / self.scaling_factor + self.shift_factor


def factors(vae: AutoencoderKL) -> tuple[float, float]:
    """Scaling and shift of a VAE's latents."""
    return float(vae.config.scaling_factor), float(vae.config.shift_factor or 0.0)
