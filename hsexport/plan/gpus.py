"""Published peaks of GPUs that bundles are made for.

Sources, NVIDIA's own: data sheets of the H100 (SXM), A100 80GB (SXM), L40S and L4; the architecture papers "NVIDIA Ada
GPU Architecture", "NVIDIA RTX Blackwell GPU Architecture" and "NVIDIA RTX PRO Blackwell GPU Architecture", appendix A;
"Jetson AGX Orin Series Technical Brief". bf16 products with fp32 sums, without sparsity: where only the sparse number
is printed, half of it; for the Orin a quarter of its GPU's 170 sparse int8 TOPS. In 8 bits the same sources have twice
that, which is what is here. No network is computed in 4 bits: nvfp4 is how weights are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from hsengines.errors import HSError


@dataclass(frozen=True)
class Gpu:
    """A GPU's peaks; memory in GB of 10^9 bytes as data sheets have it."""

    key: str
    name: str
    tflops: float  # bf16 and fp16, dense
    tflops_8_bit: float  # fp8 with fp32 sums, or int8 where there is no fp8, dense
    bandwidth_gb_s: float
    memory_gb: float

    @property
    def flops_per_second(self) -> float:
        """At the peak."""
        return self.tflops * 1e12

    @property
    def flops_per_second_8_bit(self) -> float:
        """Of products whose two sides are quantised, at the peak."""
        return self.tflops_8_bit * 1e12

    @property
    def bytes_per_second(self) -> float:
        """At the peak."""
        return self.bandwidth_gb_s * 1e9


GPUS = {
    gpu.key: gpu
    for gpu in (
        Gpu("h100", "H100 SXM", 989.4, 1978.9, 3350, 80),
        Gpu("a100", "A100 80GB SXM", 312, 624, 2039, 80),
        Gpu("l40s", "L40S", 362.05, 733, 864, 48),
        Gpu("l4", "L4", 121, 242.5, 300, 24),
        Gpu("rtx4090", "GeForce RTX 4090", 165.2, 330.3, 1008, 24),
        Gpu("rtx5090", "GeForce RTX 5090", 209.5, 419, 1792, 32),
        Gpu("rtxpro6000", "RTX PRO 6000 Blackwell", 503.8, 1007.6, 1792, 96),
        Gpu("orin", "Jetson AGX Orin 64GB", 42.5, 85, 204.8, 64),
    )
}


class GpuError(HSError):
    """A GPU that the table does not hold."""


def gpu_named(name: str) -> Gpu:
    """By key or name, spaces, dashes and case aside. Raises GpuError."""
    wanted = _plain(name)
    for gpu in GPUS.values():
        if wanted in (gpu.key, _plain(gpu.name)):
            return gpu
    raise GpuError(f"no figures are known for the GPU '{name}'", f"choose one of {', '.join(GPUS)}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
