"""What there is to know of every backend before its library is imported: one row each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hsengines.errors import BackendUnavailable
from hsengines.weights import CONVOLUTION, PRODUCT, TABLE

DEFAULT_BACKEND = "ort-cpu"
"""Builds and runs anywhere: what is taken where none is named, and the reference that others are held to."""


@dataclass(frozen=True)
class BackendTraits:
    """One backend, as all who only choose, plan or prepare for it see it."""

    backend: str
    """Its class, as "module:name"; imported by `get_backend` and nowhere earlier."""
    options: str = "hsengines.build:BuildOptions"
    """The record of what its builder can be told, which needs none of its library."""
    on_cpu: bool = True
    """Whether its engines run on CPUs unless another device is named, and never on NVIDIA's GPUs."""
    extra: str = ""
    """The extra of hsexport that brings its library; empty for one that needs none."""
    precisions: tuple[str, ...] = ("fp32",)
    """What graphs it takes, the default first."""
    weights: tuple[str, ...] = ()
    """The formats that weights may be stored in, beside the type that the graph computes with (`hsengines.weights`)."""
    weight_architectures: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """For which compute capabilities a format is, of those that are not for all."""
    quantised_kinds: tuple[str, ...] = (PRODUCT,)
    """What may read a quantised weight without numbers being made of all of it at every run."""
    quantised_passes: tuple[str, ...] = ()
    """Graph passes that it needs behind quantisation, by name."""
    products_with_bias: bool = True
    """Whether it takes a quantised weight in a product that has a bias, or in plain ones alone."""
    int8_bits: int = 8
    """Of weights whose products it computes in integers; 7 where sums of 8 and 8 bits leave its registers."""
    resident_weights: bool = False
    """Whether an engine holds its weights; otherwise it is the graph, with its weights in a file beside it."""
    fused_attention: bool = False
    """Whether attention never writes its scores out."""
    streams: bool = False
    """Whether two of its engines can run at the same time, each on a stream of its own."""
    passes: tuple[str, ...] = ()
    """Graph passes that it needs before any cast, by name."""
    rules: tuple[str, ...] = ()
    """Rules of the lint, by name, that tell of what this backend alone chokes on."""
    offered: bool = True
    """Whether users may name it."""

    def stores(self, format: str, architecture: int) -> bool:
        """Whether it has products with weights in that format for a compute capability."""
        return architecture in dict(self.weight_architectures).get(format, (architecture,))

    @property
    def install(self) -> str:
        """The command that brings its library."""
        return f"pip install 'hsexport[{self.extra}]'" if self.extra else ""


BACKENDS = {
    "ort-cpu": BackendTraits(
        "hsengines.ort.cpu:OrtCpuBackend",
        extra="cpu",
        passes=("ort_operators",),
        weights=("int8", "int4", "int8-full"),
        quantised_kinds=(PRODUCT, CONVOLUTION, TABLE),
        quantised_passes=("ort_tables", "ort_integers"),
        products_with_bias=False,
        rules=("gather-nd-indices", "bf16-on-cpu"),
    ),
    "openvino": BackendTraits(
        "hsengines.openvino.backend:OpenVinoBackend",
        extra="openvino",
        precisions=("fp32", "bf16"),
        weights=("int8", "int4", "int8-full"),
        quantised_kinds=(PRODUCT, CONVOLUTION, TABLE),
        int8_bits=7,
        fused_attention=True,
        rules=("gather-nd-indices",),
    ),
    "ort-cuda": BackendTraits(
        "hsengines.ort.cuda:OrtCudaBackend",
        on_cpu=False,
        extra="gpu",
        precisions=("bf16", "fp16", "fp32"),
        rules=("gather-nd-indices",),
    ),
    "tensorrt": BackendTraits(
        "hsengines.trt.classic:TensorRtBackend",
        "hsengines.trt.options:TensorRtOptions",
        on_cpu=False,
        extra="tensorrt",
        precisions=("bf16", "fp16", "fp32"),
        weights=("int8", "int4", "fp8", "int8-full", "nvfp4"),
        weight_architectures=(("fp8", (89, 90, 100, 103, 120)), ("nvfp4", (100, 103, 120))),
        resident_weights=True,
        fused_attention=True,
        streams=True,
        passes=("single_output_attention",),
        rules=("attention-outputs", "top-k", "float64"),
    ),
    "tensorrt-rtx": BackendTraits(
        "hsengines.trt.rtx:TensorRtRtxBackend",
        "hsengines.trt.options:RtxOptions",
        on_cpu=False,
        extra="rtx",
        precisions=("bf16", "fp16"),
        weights=("int8", "int4", "fp8", "int8-full", "nvfp4"),
        weight_architectures=(("fp8", (89, 120)), ("nvfp4", (120,))),
        resident_weights=True,
        fused_attention=True,
        streams=True,
        passes=("single_output_attention",),
        rules=("attention-outputs", "attention-fp32", "top-k", "float64"),
    ),
    "null": BackendTraits(
        "hsengines.null.backend:NullBackend",
        precisions=("fp32", "fp16", "bf16"),
        weights=("int8", "int4", "fp8", "int8-full", "nvfp4"),
        offered=False,
    ),
}


def backend_names() -> list[str]:
    """The backends a bundle may be built for."""
    return [name for name, traits in BACKENDS.items() if traits.offered]


def traits_of(name: str) -> BackendTraits:
    """The row of the backend called `name`. Raises BackendUnavailable if there is none."""
    if name not in BACKENDS:
        raise BackendUnavailable(f"there is no backend '{name}'", f"choose one of {', '.join(backend_names())}")
    return BACKENDS[name]


def named(path: str) -> Any:
    """What a row names as "module:name". Raises ImportError."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
