"""The form that every stage has: it makes things of each network, each of them once, and the store keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from hsengines.backend import Backend, get_backend
from hsengines.spec import EngineSpec
from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED, Asked, asked_weights
from hsexport.build.calibration import Calibration, Ranges, read_calibration
from hsexport.build.request import BuildRequest
from hsexport.build.store import BuildKey, Store
from hsexport.networks.network import Network
from hsexport.progress import Reporter

Fill = Callable[[Path], msgspec.Struct | None]
"""Makes a thing in an empty folder; what it answers is kept beside it."""
Job = tuple[str, BuildKey, Fill]
"""One thing to make of a network: its name in `Product.entries`, what decides it, and how."""
Record = TypeVar("Record", bound=msgspec.Struct)
RECORD = "record.json"
KEPT = "kept from an earlier build"
GOLDEN = "golden.npz"


@dataclass
class Product:
    """A network on its way through the stages, and the folders of the store that hold what was made of it.

    `precision` is what its graph is cast to, `weights` the format they are stored in. `entries`: "onnx" in fp32,
    without its weights, and "golden", one input and torch's answer, by export; "graph" as the backend takes it by
    optimise; "engine" by compile; "parity" by verify.
    """

    network: Network
    precision: str
    entries: dict[str, Path] = field(default_factory=dict)
    weights: str = UNQUANTIZED

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.network.name

    @property
    def spec(self) -> EngineSpec:
        """The I/O signature in its precision."""
        return self.network.spec_at(self.precision)

    @property
    def onnx(self) -> Path:
        """The graph as it was exported."""
        return self.entries["onnx"] / f"{self.name}.onnx"

    @property
    def graph(self) -> Path:
        """The graph as its backend takes it."""
        return self.entries["graph"] / f"{self.name}.onnx"

    @property
    def golden(self) -> Path:
        """Inputs and outputs in fp32, whatever the precision."""
        return self.entries["golden"] / GOLDEN

    def record(self, entry: str, kind: type[Record]) -> Record:
        """What the stage that made the entry had to say of it."""
        return msgspec.json.decode((self.entries[entry] / RECORD).read_bytes(), type=kind)


@dataclass(frozen=True)
class Run:
    """One walk through the stages: what is asked for, and who hears of it."""

    request: BuildRequest
    reporter: Reporter

    @cached_property
    def backend(self) -> Backend:
        """Whose engines are built. Raises BackendUnavailable."""
        return get_backend(self.request.backend, self.request.cache)

    @cached_property
    def store(self) -> Store:
        """Where everything made is kept."""
        return Store(self.request.cache)

    def products(self, networks: Iterable[Network]) -> list[Product]:
        """Each network as the first stage takes it."""
        precision, asked = self.request.options.precision, self.asked_weights
        kinds = traits_of(self.request.backend).quantised_kinds
        return [Product(n, n.precision_in(precision), weights=n.weights_in(asked, kinds)) for n in networks]

    @cached_property
    def asked_weights(self) -> tuple[Asked, ...]:
        """How weights are to be stored, entry by entry."""
        return asked_weights(self.request.options.weights)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What was measured of the pair, if it is given. Raises RecipeError."""
        return read_calibration(self.request.calibration) if self.request.calibration else None

    def ranges(self, network: str) -> Ranges:
        """What was measured of one network; nothing without a calibration."""
        return self.calibration.of(network) if self.calibration else Ranges()

    def graph_digests(self, product: Product) -> dict[str, str]:
        """Sha256 of a graph's file and of each that holds weights of it, as facts of a build key."""
        digests = self.store.digests(product.entries["graph"])
        del digests[RECORD]
        return digests

    def stage(
        self,
        name: str,
        products: Sequence[Product],
        jobs: Callable[[Product], Iterable[Job]],
        made: Callable[[Product], str] = lambda _: "",
        found: Callable[[Product], str] = lambda _: KEPT,
    ) -> None:
        """Makes what the store does not hold yet, network by network; `made` and `found` say what came of one.

        A job is asked for when the one before it is done, so that it may build on that.
        """
        self.reporter.stage(name, len(products))
        for product in products:
            note = found if self._is_found(product, jobs(product)) else made
            self.reporter.end(product.name, note(product))

    def _is_found(self, product: Product, jobs: Iterable[Job]) -> bool:
        """Whether the store held all of it; what it did not is made."""
        made = []
        for number, (entry, key, fill) in enumerate(jobs):
            found = self.store.find(key)
            if number == 0:
                self.reporter.begin(product.name, "" if found else self.store.why_missing(key))
            if found is None:
                found = self.store.make(key, _recorded(fill), lambda: self.reporter.wait(product.name))
                made.append(entry)
            product.entries[entry] = found
        return not made


def _recorded(fill: Fill) -> Callable[[Path], None]:
    def whole(folder: Path) -> None:
        if (record := fill(folder)) is not None:
            (folder / RECORD).write_bytes(msgspec.json.encode(record))

    return whole
