"""Quantised checkpoints by their public layouts, and what other readers make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from single_file_twin import PREFIX, stability_state

State = Mapping[str, torch.Tensor]
Q = gguf.GGMLQuantizationType
LEGACY = (Q.Q8_0, Q.Q5_0, Q.Q5_1, Q.Q4_0)


def state_of(component: Path) -> dict[str, torch.Tensor]:
    """What a component's one safetensors file holds."""
    (file,) = component.glob("*.safetensors")
    return load_file(file)


def stability_twin(transformer: Path) -> dict[str, torch.Tensor]:
    """A transformer's fp32 weights by Stability's names."""
    return {name: tensor.float() for name, tensor in stability_state(state_of(transformer)).items()}


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """What quantisers take: linear layers."""
    return name.endswith(".weight") and tensor.dim() == 2


def write_fp8(state: State, file: Path, *, of=torch.float8_e4m3fn, rest=torch.float16, prefix="") -> Path:
    """Matrices cast to fp8, all else to `rest`."""
    cast = {prefix + n: t.to(of if is_matrix(n, t) else rest).contiguous() for n, t in state.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(cast, file)
    return file


def write_scaled_fp8(state: State, file: Path, *, new=False, prefix="") -> Path:
    """As ComfyUI has it: each matrix over its own scale, by the older names with a marker, or by the newer ones."""
    weight_scale, input_scale = ("weight_scale", "input_scale") if new else ("scale_weight", "scale_input")
    written = {} if new else {f"{prefix}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in state.items():
        if not is_matrix(name, tensor):
            written[prefix + name] = tensor.to(torch.bfloat16).contiguous()
            continue
        layer = prefix + name.removesuffix(".weight")
        scale = tensor.abs().max() / 448
        written[f"{layer}.weight"] = (tensor / scale).to(torch.float8_e4m3fn).contiguous()
        written[f"{layer}.{weight_scale}"] = scale if new else scale.reshape(1)
        written[f"{layer}.{input_scale}"] = torch.ones(())
        if new:
            said = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
            written[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(written, file)
    return file


FP8_WRITERS: dict[str, Callable[[State, Path], Path]] = {
    "fp8": lambda state, file: write_fp8(state, file.with_suffix(".safetensors"), prefix=PREFIX),
    "all fp8": lambda state, file: write_fp8(state, file.with_suffix(".safetensors"), rest=torch.float8_e4m3fn),
    "scaled": lambda state, file: write_scaled_fp8(state, file.with_suffix(".safetensors"), prefix=PREFIX),
    "scaled, newer": lambda state, file: write_scaled_fp8(state, file.with_suffix(".safetensors"), new=True),
}
"""Kinds of single files in fp8; what they are given is by the file's own names."""


def write_gguf(state: State, file: Path, architecture="sd3", kinds=(*LEGACY, Q.Q4_K), reshaped=(), row=256) -> Path:
    """As ComfyUI-GGUF has it: matrices in one of `kinds` after the other, where rows are whole blocks; else F16 or F32.

    Those in `reshaped` lie in rows of `row` numbers, their own shape beside them.
    """
    writer, following = gguf.GGUFWriter(None, architecture), cycle(kinds)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "</s>", "a"])  # what readers have to pass over
    for name, tensor in state.items():
        array, kind = tensor.float().contiguous().numpy(), Q.F32 if tensor.dim() == 1 else Q.F16
        if name in reshaped:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(-1, row)
        if is_matrix(name, tensor):
            wanted = next(following)
            kind = wanted if array.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else Q.F16
        writer.add_tensor(name, quantised(array, kind), raw_dtype=kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantised(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Bytes of a matrix; the package itself has no way into Q4_K."""
    return q4_k(array) if kind == Q.Q4_K else gguf.quants.quantize(array, kind)


def q4_k(array: np.ndarray) -> np.ndarray:
    """Blocks of 256: eight times 32 numbers of 4 bits, with a scale and a minimum of 6 bits each, two fp16 over all."""
    parts = array.reshape(-1, 8, 32)
    least = np.minimum(parts.min(-1), 0)
    steps = (np.maximum(parts.max(-1), 0) - least) / 15
    d, dmin = (np.float16(each.max(-1, keepdims=True) / 63) for each in (steps, -least))
    sc, mn = (
        np.clip(np.round(each / np.maximum(np.float32(whole), 1e-8)), 0, 63).astype(np.uint8)
        for each, whole in ((steps, d), (-least, dmin))
    )
    step, minimum = (np.float32(whole) * each for whole, each in ((d, sc), (dmin, mn)))
    levels = np.round((parts + minimum[..., None]) / np.maximum(step[..., None], 1e-8))
    q = np.clip(levels, 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    packed = np.concatenate(
        [
            sc[:, :4] | (sc[:, 4:] >> 4) << 6,
            mn[:, :4] | (mn[:, 4:] >> 4) << 6,
            (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4,
        ],
        axis=-1,
    )
    blocks = [d.view(np.uint8), dmin.view(np.uint8), packed, (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)]
    return np.concatenate(blocks, axis=-1).reshape(len(array), -1)


def llama_names(state: State) -> dict[str, torch.Tensor]:
    """T5's encoder by llama.cpp's names."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 64)
    found = {names.get_name(name.removesuffix(".weight")): tensor for name, tensor in state.items()}
    return {f"{name}.weight": tensor for name, tensor in found.items() if name is not None}


def by_torch(file: Path) -> dict[str, torch.Tensor]:
    """A file of fp8, scaled or not, as fp32."""
    found = load_file(file)
    beside = ("scale_weight", "scale_input", "weight_scale", "input_scale", "comfy_quant", "scaled_fp8")
    numbers = {}
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if kind not in beside:
            scales = [found[f"{layer}.{each}"] for each in beside[::2] if f"{layer}.{each}" in found]
            scaled = kind == "weight" and scales and tensor.dtype == torch.float8_e4m3fn
            numbers[name] = tensor.float() * scales[0].float() if scaled else tensor.float()
    return numbers


def by_gguf(file: Path) -> dict[str, torch.Tensor]:
    """A GGUF file as fp32, by the package's own reader."""
    reader, numbers = gguf.GGUFReader(file), {}
    for tensor in reader.tensors:
        told = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        shape = told.contents() if told else [int(extent) for extent in reversed(tensor.shape)]
        array = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
        numbers[tensor.name] = torch.from_numpy(np.array(array, np.float32).reshape(shape))
    return numbers


def dequantised_transformer(config: Mapping[str, object], numbers: State) -> torch.nn.Module:
    """Diffusers' model of numbers by Stability's names, through diffusers' own converter."""
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    model = SD3Transformer2DModel.from_config(dict(config))
    model.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(numbers)))
    return model.eval()


def transformers_names(state: State, like: State) -> dict[str, torch.Tensor]:
    """Numbers by llama.cpp's names under transformers'."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 64)
    of: Callable[[str], str] = lambda name: f"{names.get_name(name.removesuffix('.weight'))}.weight"  # noqa: E731
    return {name: state[of(name)] for name in like if of(name) in state}
