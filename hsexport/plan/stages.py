"""Disk and memory that each stage of a build takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hsengines.traits import traits_of
from hsexport.plan.machine import Machine
from hsexport.plan.measured import (
    BUILDER_COPIES,
    EXPORT_PER_TENSOR,
    EXPORT_PROCESS,
    GRAPH_PER_TENSOR,
    RUNNER_PROCESS,
)
from hsexport.plan.networks import NetworkPlan

WIDE, NARROW = 4, 2


@dataclass(frozen=True)
class StagePlan:
    """What a stage adds to the disk and needs of memory at its peak. Networks go through one after the other."""

    name: str
    disk_bytes: int
    host_bytes: int
    why: str
    certain: bool = True
    """Whether it needs that memory anywhere; a library may do with less by leaving weights on disk."""


def stage_plans(
    networks: Sequence[NetworkPlan], backend: str, machine: Machine, *, stripped: bool = False
) -> tuple[StagePlan, ...]:
    """Each keeps its products in the cache, but for pack, which fills the bundle."""
    most = max(network.tensors for network in networks)
    graphs = sum(network.tensors for network in networks) * GRAPH_PER_TENSOR
    goldens = sum(network.signature_bytes for network in networks)
    # Goldens read one layer's weights at a time, casts one tensor's: as it lies, and in fp32.
    reading = max(network.largest_parameters for network in networks) * (WIDE + NARROW)
    host = EXPORT_PROCESS + most * EXPORT_PER_TENSOR + reading
    copied = sum(network.bundle_bytes for network in networks)
    if traits_of(backend).resident_weights and machine.checkpoint_beside_cache:
        copied -= sum(network.unchanged_bytes for network in networks)
    compiled, compile_why = _compiled(networks, backend, stripped)
    largest = max(network.bundle_bytes for network in networks)
    return (
        *_download(machine),
        StagePlan("export", graphs + goldens, host, "graphs without weights"),
        StagePlan("optimise", graphs + copied, host, _weights_why(backend, machine)),
        StagePlan("compile", compiled, building_bytes(largest, backend), compile_why, certain=False),
        StagePlan("verify", 0, _running(networks), "the largest engine, run once on the host", certain=False),
        _pack(compiled if traits_of(backend).resident_weights else copied, one_disk=machine.one_disk),
    )


def _download(machine: Machine) -> Iterator[StagePlan]:
    if machine.download:
        why = "weights that the hub's cache lacks"
        yield StagePlan("download", machine.download.size_bytes, RUNNER_PROCESS, why)


def _weights_why(backend: str, machine: Machine) -> str:
    if traits_of(backend).resident_weights and machine.checkpoint_beside_cache:
        return "weights that change; the others stay in the checkpoint"
    return "one copy of the weights"


def _compiled(networks: Sequence[NetworkPlan], backend: str, stripped: bool) -> tuple[int, str]:
    """Engines. A stripped one leaves its weights to a file beside it, which is a copy all the same."""
    if not traits_of(backend).resident_weights:
        return 0, "the graphs are the engines"
    why = "plans without weights, and the weights" if stripped else "engines with their weights"
    return sum(network.bundle_bytes for network in networks), why


def building_bytes(weights_bytes: int, backend: str) -> int:
    """Memory of compiling a network of so many bytes: in the process that exported it, torch and all."""
    copies = BUILDER_COPIES if traits_of(backend).resident_weights else 1
    return EXPORT_PROCESS + int(copies * weights_bytes)


def _running(networks: Sequence[NetworkPlan]) -> int:
    """Cast back to fp32 if it was narrow: a host has no other arithmetic."""
    return RUNNER_PROCESS + WIDE * max(network.parameters for network in networks)


def _pack(bundle_bytes: int, *, one_disk: bool) -> StagePlan:
    if one_disk:
        return StagePlan("pack", 0, EXPORT_PROCESS, "second names of the cache's files")
    return StagePlan("pack", bundle_bytes, EXPORT_PROCESS, "a copy: the bundle lies on another disk than the cache")
