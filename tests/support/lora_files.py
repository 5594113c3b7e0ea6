"""LoRAs of random numbers over modules of real transformers and text encoders."""

import numpy as np
from safetensors.numpy import load_file

KOHYA = {"transformer": "lora_transformer_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
KOHYA["text_encoder_3"] = "lora_te3_"


def lora_of(folder, modules, seed=0, style="diffusers", part="transformer"):
    """Tensors of a LoRA over modules of a part of the pipeline in `folder`, by the names that `style` writes."""
    rng = np.random.default_rng(seed)
    (file,) = (folder / part).glob("*.safetensors")
    weights, tensors = load_file(file), {}
    for module in modules:
        weight = weights[f"{module}.weight"]
        down = rng.normal(0, 0.3, (2, *weight.shape[1:])).astype(np.float32)
        up = rng.normal(0, 0.3, (len(weight), 2, *[1] * (weight.ndim - 2))).astype(np.float32)
        sides = ("lora_A", "lora_B")
        if style == "kohya":
            stem, sides = KOHYA[part] + module.replace(".", "_"), ("lora_down", "lora_up")
        elif style == "older diffusers":
            stem, sides = f"{part}.{module}", ("lora_linear_layer.down", "lora_linear_layer.up")
        elif style == "flat":  # of a text model that goes without its own prefix
            stem = f"{part}.{module.removeprefix('text_model.')}"
        else:
            stem = {"diffusers": f"{part}.", "peft": "base_model.model."}[style] + module
        tensors |= {f"{stem}.{side}.weight": matrix for side, matrix in zip(sides, (down, up), strict=True)}
    return tensors


def fused_by_hand(module, tensors, start, scale=1.0):
    """Adds the products of a LoRA's tensors, by diffusers' names behind `start`, to a torch module's own weights."""
    import torch

    for name, down in tensors.items():
        if name.startswith(start) and name.endswith(".lora_A.weight"):
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = module.get_submodule(name.removeprefix(start).removesuffix(".lora_A.weight")).weight
            with torch.no_grad():
                weight += scale * torch.from_numpy(up @ down)
