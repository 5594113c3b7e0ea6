"""LoRAs of random numbers over modules of a real transformer."""

import numpy as np
from safetensors.numpy import load_file


def lora_of(folder, modules, seed=0, style="diffusers"):
    """Tensors of a LoRA over modules of the transformer in `folder`, by the names that `style` writes."""
    rng = np.random.default_rng(seed)
    (file,) = (folder / "transformer").glob("*.safetensors")
    weights, tensors = load_file(file), {}
    for module in modules:
        weight = weights[f"{module}.weight"]
        down = rng.normal(0, 0.3, (2, *weight.shape[1:])).astype(np.float32)
        up = rng.normal(0, 0.3, (len(weight), 2, *[1] * (weight.ndim - 2))).astype(np.float32)
        if style == "kohya":
            stem = f"lora_transformer_{module.replace('.', '_')}"
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        else:
            stem = {"diffusers": "transformer.", "peft": "base_model.model."}[style] + module
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    return tensors
