"""Disk and memory that each stage of a build takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED
from hsexport.plan import measured
from hsexport.plan.machine import Machine
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
    """Each keeps its products in the cache, but for pack, which fills the bundle. stripped: engines without weights."""
    resident = traits_of(backend).resident_weights
    most = max(network.tensors for network in networks)
    graphs = sum(network.tensors for network in networks) * measured.GRAPH_PER_TENSOR
    goldens = sum(network.signature_bytes for network in networks)
    # Goldens read one layer's weights at a time, casts one tensor's: as it lies, and in fp32.
    reading = max(network.largest_parameters for network in networks) * (WIDE + NARROW)
    host = measured.EXPORT_PROCESS + most * measured.EXPORT_PER_TENSOR + reading
    stored = max((net.largest_parameters for net in networks if net.weights != UNQUANTIZED), default=0)
    weights = copied = sum(network.bundle_bytes for network in networks)
    copied_why = "one copy of the weights"
    if resident and machine.checkpoint_beside_cache:
        copied -= sum(network.unchanged_bytes for network in networks)
        copied_why = "weights that change; the others stay in the checkpoint"
    compiled, compiled_why = 0, "the graphs are the engines"
    if resident:  # a stripped engine leaves its weights to a file beside it, which is a copy all the same
        compiled, compiled_why = weights, "engines with their weights"
        if stripped:
            compiled_why = "plans without weights, and the weights"
    building = building_bytes(max(network.bundle_bytes for network in networks), backend)
    # Cast back to fp32 if it was narrow: a host has no other arithmetic.
    running = measured.RUNNER_PROCESS + WIDE * max(network.parameters for network in networks)
    packed, packed_why = 0, "second names of the cache's files"
    if not machine.one_disk:
        packed, packed_why = compiled if resident else copied, "a copy: the bundle lies on another disk than the cache"
    stages = (
        StagePlan("export", graphs + goldens, host, "graphs without weights"),
        StagePlan("optimise", graphs + copied, host + measured.QUANTISING * stored, copied_why),
        StagePlan("compile", compiled, building, compiled_why, certain=False),
        StagePlan("verify", 0, running, "the largest engine, run once on the host", certain=False),
        StagePlan("pack", packed, measured.EXPORT_PROCESS, packed_why),
    )
    if not machine.download:
        return stages
    why = "weights that the hub's cache lacks"
    return (StagePlan("download", machine.download.size_bytes, measured.RUNNER_PROCESS, why), *stages)


def building_bytes(weights_bytes: int, backend: str) -> int:
    """Memory of compiling a network of so many bytes: in the process that exported it, torch and all."""
    copies = measured.BUILDER_COPIES if traits_of(backend).resident_weights else 1
    return measured.EXPORT_PROCESS + int(copies * weights_bytes)
