"""The plan: what a build and its pictures need, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from msgspec import structs

from hsengines.errors import HSError
from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED, asked_weights
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.previews import Previews
from hsexport.families.recipe import Recipe
from hsexport.families.registry import FAMILIES
from hsexport.networks.network import Network
from hsexport.plan.gpus import Gpu
from hsexport.plan.machine import Machine, machine_at
from hsexport.plan.networks import NetworkPlan, network_plan, resident_weights
from hsexport.plan.shortfalls import Choices, Shortfall, device_shortfalls, disk_shortfalls, memory_shortfalls
from hsexport.plan.stages import StagePlan, stage_plans
from hsexport.plan.work import Roofline, RunMemory, Work, roofline, run_memory, work_of
from hsruntime.facts import Facts, Sizes
from hsruntime.schedule.fit import schedule_for


class RoomError(HSError):
    """A build that this machine has not enough disk or memory for."""


@dataclass(frozen=True)
class Plan:
    """Everything that can be told of a build from configurations and headers."""

    backend: str
    precision: str
    sizes: Sizes
    schedule: str
    steps: int
    guidance_scale: float
    networks: tuple[NetworkPlan, ...]
    stages: tuple[StagePlan, ...]
    memory: tuple[RunMemory, ...]
    """One picture and the most at once, at the default size and at the largest."""
    work: Work
    roofline: Roofline | None
    machine: Machine
    shortfalls: tuple[Shortfall, ...]

    @property
    def bundle_bytes(self) -> int:
        """Weights of all engines."""
        return sum(network.bundle_bytes for network in self.networks)


def plan_for(request: BuildRequest, gpu: Gpu | None = None) -> Plan:
    """Of what is asked for here, before a byte of weights is read or downloaded. Raises what recipe_for raises."""
    with Previews() as previews:
        return plan_here(request, recipe_for(request, previews), previews, gpu)


def plan_here(request: BuildRequest, recipe: Recipe, previews: Previews, gpu: Gpu | None = None) -> Plan:
    """On this machine, of a recipe that came by way of `previews`."""
    checkpoint = recipe.pair.large.directory.transformer
    machine = machine_at(request.out, request.cache, checkpoint, previews)
    return plan_of(request, recipe.facts, recipe.networks(), machine, gpu)


def plan_of(
    request: BuildRequest, facts: Facts, networks: Sequence[Network], machine: Machine, gpu: Gpu | None = None
) -> Plan:
    """Counts everything of the networks; reads no weights.

    `gpu` is what the bundle shall run on, if the plan is to tell of it.
    """
    options, backend, precision = request.options, request.backend, request.options.precision
    weights = {network.name: resident_weights(network, request) for network in networks}
    asked, kinds = asked_weights(options.weights), traits_of(backend).quantised_kinds
    plans = tuple(
        network_plan(net, weights[net.name], net.precision_in(precision), net.weights_in(asked, kinds))
        for net in networks
    )
    schedule = schedule_for(facts)
    stages = stage_plans(plans, backend, machine, stripped=options.leaves_weights or options.takes_weights)
    if request.stop_after:
        stages = stages[: 1 + [stage.name for stage in stages].index(request.stop_after)]
    held = {plan.name: 0 if options.streams_weights else plan.bundle_bytes for plan in plans}
    by_name = {network.name: network for network in networks}
    memory = partial(run_memory, request, facts, by_name, schedule, held)
    sizes, traits = facts.sizes, traits_of(backend)
    cases = dict.fromkeys((size, n) for size in (sizes.default, sizes.maximum) for n in (1, sizes.max_batch))
    optional = FAMILIES[facts.family].optional
    choices = Choices(
        sizes=sizes,
        memory=memory,
        optional_bytes={name: held.get(part, 0) for name, (part, _) in optional.items()},
        streams_weights=traits.resident_weights and not options.streams_weights,
        halves=precision == "fp32",
        stored_bytes=partial(_stored_in, request, networks),
        formats=traits.weights if options.weights == UNQUANTIZED else (),
    )
    work = work_of(request, facts, by_name, schedule, weights)
    return Plan(
        backend=backend,
        precision=precision,
        sizes=sizes,
        schedule=facts.defaults.schedule,
        steps=facts.defaults.steps,
        guidance_scale=facts.defaults.guidance_scale,
        networks=plans,
        stages=stages,
        memory=tuple(memory(*case) for case in cases),
        work=work,
        roofline=roofline(work, gpu) if gpu else None,
        machine=machine,
        shortfalls=(
            *disk_shortfalls(stages, machine),
            *memory_shortfalls(stages, machine),
            *device_shortfalls(machine, gpu, choices, on_cpu=traits.on_cpu),
        ),
    )


def _stored_in(request: BuildRequest, networks: Sequence[Network], weights: str) -> int:
    """Bytes of all weights with `--weights` so."""
    asked = replace(request, options=structs.replace(request.options, weights=weights))
    return sum(weight.size_bytes for network in networks for weight in resident_weights(network, asked))


def ask_room(request: BuildRequest, recipe: Recipe, previews: Previews) -> list[str]:
    """What `build` asks before it starts. Raises RoomError."""
    return check_room(plan_here(request, recipe, previews))


def check_room(plan: Plan) -> list[str]:
    """Raises RoomError where disk or memory cannot suffice, whatever a library may save; tells where they may not."""
    for shortfall in plan.shortfalls:
        if shortfall.certain:
            raise RoomError(str(shortfall), " or ".join(shortfall.hints))
    return [f"{shortfall}; {' or '.join(shortfall.hints)}" for shortfall in plan.shortfalls]
