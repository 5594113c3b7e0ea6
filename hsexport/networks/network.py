"""A network on its way to an engine: its I/O signature, how to load its torch module, and inputs to trace it with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from hsengines.errors import HSError
from hsengines.spec import FLOATS, EngineSpec, TensorSpec, numpy_dtype
from hsengines.weights import PRODUCT, UNQUANTIZED, Asked, format_of

if TYPE_CHECKING:
    from torch import nn

    from hsexport.checkpoints.weights import Weights
    from hsexport.progress import OnBytes


@dataclass(frozen=True)
class Fp32Rule:
    """Nodes that stay in fp32 where the rest is cast: those in a module of `modules`, if they are one of `operators`.

    `modules` are patterns (fnmatch, `*` spans dots) over the path of the node's module; empty, like empty `operators`,
    means any. `precisions` are the casts that it is for.
    """

    name: str
    modules: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp16", "bf16")
    reason: str = ""

    def holds(self, module: str, operator: str) -> bool:
        """Whether it asks for a node of the operator in the module; for Attention, no rule does.

        TensorRT has no fp32 kernels for it. Its inputs are normalised, and it sums in fp32 by itself.
        """
        if operator == "Attention" or (self.operators and operator not in self.operators):
            return False
        return not self.modules or any(fnmatchcase(module, pattern) for pattern in self.modules)


NORMS = Fp32Rule(
    "norms",
    operators=("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
    reason="variances square what they are given",
)


@dataclass(frozen=True)
class WeightRule:
    """Weights of `modules` that a network stored in one of `formats` has in `instead`; patterns as in Fp32Rule."""

    modules: tuple[str, ...]
    formats: tuple[str, ...]
    instead: str
    reason: str

    def holds(self, module: str, format: str) -> bool:
        """Whether it is for the weights of that module in a network of that format."""
        return format in self.formats and any(fnmatchcase(module, pattern) for pattern in self.modules)


@dataclass(frozen=True)
class Network:
    """What the export, compile and verify stages know of one network of a bundle.

    `skeleton()` makes the module on the meta device; it takes the spec's inputs in order and returns a tuple of its
    outputs. `weights` are its numbers by the names in its state dict, if it has any. `trace_dims` are the extents to
    trace with; each differs from 0, 1 and its neighbours, so that the tracer takes none for a constant. `limits` bounds
    integer inputs from above (exclusive) by a number or by a dimension or product of dimensions ("B*N"). `facts` names
    whatever else decides the module's weights or graph, for the build key: its configuration above all.

    In fp16 or bf16 the tensors that match `narrow_tensors` (as fnmatch has it) carry that type, all other
    inputs and outputs stay float32; `fp32_blocks` stay fp32 inside, as norms do, and `stays_fp32` keeps the whole
    network out of it. `weight_rules` say what of it is stored otherwise than asked for, `kind` what reads nearly all of
    its weights, `tables` are patterns of those of which rows are looked up; `group` is what users may call it and its
    like together ("text"). `layers` is a transformer's depth.

    For the plan: `unread` are patterns of weights that the graph does not read; `operations(shapes, dims)` counts
    floating-point operations of a run from the weights' shapes, `activations(dims, fused)` the numbers alive at its
    widest; `fused`: whether attention never writes its scores out.
    """

    spec: EngineSpec
    skeleton: Callable[[], nn.Module]
    trace_dims: Mapping[str, int]
    limits: Mapping[str, int | str] = field(default_factory=dict)
    weights: Weights | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    narrow_tensors: tuple[str, ...] = ()
    fp32_blocks: tuple[Fp32Rule, ...] = ()
    stays_fp32: bool = False
    weight_rules: tuple[WeightRule, ...] = ()
    kind: str = PRODUCT
    tables: tuple[str, ...] = ()
    group: str = ""
    layers: int = 0
    unread: tuple[str, ...] = ()
    operations: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, int]], int] | None = None
    activations: Callable[[Mapping[str, int], bool], int] | None = None

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.spec.name

    def load(self, on_bytes: OnBytes | None = None) -> nn.Module:
        """The module, ready to compute in fp32; its weights come from the disk while it does, layer by layer.

        `on_bytes` hears of them.
        """
        if self.weights is None:
            return self.skeleton().eval()
        from hsexport.checkpoints.weights.streamed import streamed

        return streamed(self.skeleton(), self.weights, on_bytes)

    def reads(self, weight: str) -> bool:
        """Whether the graph reads a weight of that name."""
        return not any(fnmatchcase(weight, pattern) for pattern in self.unread)

    def precision_in(self, bundle: str) -> str:
        """What this network is cast to in a bundle of that precision."""
        return "fp32" if self.stays_fp32 else bundle

    def is_table(self, weight: str) -> bool:
        """Whether rows of a weight of that name are looked up."""
        return any(fnmatchcase(weight.removesuffix(".weight"), pattern) for pattern in self.tables)

    def weights_in(self, asked: Sequence[Asked], kinds: Collection[str]) -> str:
        """The format that its weights are stored in, or all of them instead, where `kinds` may read quantised ones.

        "unquantized" if it has none.
        """
        format = format_of(asked, self.name, self.group) if self.weights and self.kind in kinds else UNQUANTIZED
        whole = (r for r in self.weight_rules if r.modules == ("*",) and format in r.formats)
        return next((rule.instead for rule in whole), format)

    def format_of(self, asked: Sequence[Asked], module: str) -> tuple[str, str]:
        """The format of a module's weights, and why where it is not the network's: asked for, or a rule."""
        for entry in reversed(asked):
            if entry.modules and entry.holds(self.name, self.group) and fnmatchcase(module, entry.modules):
                return entry.format, "asked for"
        format = self.weights_in(asked, (self.kind,))
        rule = next((rule for rule in self.weight_rules if rule.holds(module, format)), None)
        return (rule.instead, rule.reason) if rule and rule.instead != format else (format, "")

    def fp32_rules(self, precision: str, asked: Sequence[str] = ()) -> tuple[Fp32Rule, ...]:
        """Norms, what the network brings, and what the user asked for; nothing for a graph that is not cast.

        A user's text names modules of one network, "large:transformer_blocks.35*", or without a prefix of all; the
        prefix may be a pattern. Raises HSError for a text without a module pattern. One that holds no node of any
        network shows as 0 nodes in every cast; saying so is the caller's part.
        """
        rules = [NORMS, *self.fp32_blocks]
        for text in asked:
            prefix, colon, modules = text.rpartition(":")
            if not modules or (colon and not prefix):
                raise HSError(f"--fp32 '{text}' names no modules", "write it like large:transformer_blocks.35*")
            if not colon or fnmatchcase(self.name, prefix):
                rules.append(Fp32Rule(text, modules=(modules,), reason="asked for"))
        return tuple(rule for rule in rules if precision in rule.precisions)

    def spec_at(self, precision: str) -> EngineSpec:
        """The I/O signature after the graph was cast."""
        return replace(
            self.spec,
            inputs=tuple(self._cast(tensor, precision) for tensor in self.spec.inputs),
            outputs=tuple(self._cast(tensor, precision) for tensor in self.spec.outputs),
        )

    def _cast(self, tensor: TensorSpec, precision: str) -> TensorSpec:
        narrow = tensor.dtype == "float32" and any(fnmatchcase(tensor.name, p) for p in self.narrow_tensors)
        return replace(tensor, dtype=FLOATS[precision]) if narrow else tensor

    @property
    def check_dims(self) -> dict[str, int]:
        """Extents to compare with: the traced ones, as far as the last profile admits them."""
        ranges = self.spec.profiles[-1].dims if self.spec.profiles else {}
        return {d: min(extent, ranges[d].maximum) if d in ranges else extent for d, extent in self.trace_dims.items()}

    def sample_inputs(self, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """Random inputs at `dims` (default: `check_dims`): normal floats, uniform integers below their limits.

        Floats are what bfloat16 has, so that each precision is asked the same, and half of a golden's bytes are zeros.
        """
        rng = np.random.default_rng(seed)
        extents = dict(dims or self.check_dims)
        return {tensor.name: self._sample(tensor, extents, rng) for tensor in self.spec.inputs}

    def _sample(self, tensor: TensorSpec, dims: dict[str, int], rng: np.random.Generator) -> np.ndarray:
        shape = tensor.resolve(dims)
        if np.dtype(tensor.dtype).kind == "f":
            return rng.standard_normal(shape).astype(numpy_dtype("bfloat16")).astype(tensor.dtype)
        top = TensorSpec(tensor.name, "int64", (self.limits[tensor.name],)).resolve(dims)[0]
        return rng.integers(0, top, shape).astype(tensor.dtype)


def on_meta(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A network's `skeleton` of what makes its module; torch is imported when it is asked for."""

    def skeleton() -> nn.Module:
        import torch

        with torch.device("meta"):
            return make()

    return skeleton


def reference_outputs(module: nn.Module, spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the torch module answers to `inputs`."""
    import torch

    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(inputs[t.name]) for t in spec.inputs))
    return {t.name: o.numpy() for t, o in zip(spec.outputs, outputs, strict=True)}
