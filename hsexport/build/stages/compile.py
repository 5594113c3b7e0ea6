"""The compile stage: graphs to engines, by way of the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from hsengines.backend import Backend
from hsengines.build import BuildOptions, EngineFiles
from hsengines.errors import EngineBuildError
from hsexport.build.audit import audit
from hsexport.build.stages.optimise import Graph
from hsexport.build.store import BuildKey, Store
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import AuditRecord

RECORD = "built.json"
LOG = "builder.log"


class _Built(msgspec.Struct, frozen=True):
    """What the store keeps of a build beside its files."""

    engine: str
    weights: list[str]
    audit: AuditRecord | None


@dataclass(frozen=True)
class CompiledEngine:
    """An engine's files in the store, and the graph it was made from."""

    graph: Graph
    files: EngineFiles
    key: str
    options: dict[str, str]
    audit: AuditRecord | None

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.graph.name


def compile_all(
    graphs: list[Graph], backend: Backend, options: BuildOptions, store: Store, reporter: Reporter
) -> list[CompiledEngine]:
    """Compiles what the store does not hold yet. Raises EngineBuildError, whose hint says where the log lies."""
    reporter.stage("compile", len(graphs))
    return [_compile(graph, backend, options, store, reporter) for graph in graphs]


def engine_key(graph: Graph, backend: Backend, options: BuildOptions) -> BuildKey:
    """What decides an engine: graph, weights, profiles, the builder and the options that reach it.

    The precision is the graph's own and needs no fact, but a rebuild that says "precision" is better understood than
    one that says "graph". An engine that keeps fp32 in every bundle is therefore not built again.
    """
    facts = dict(graph.digests) | {
        "precision": graph.precision,
        "profiles": msgspec.json.encode(graph.spec.profiles, order="sorted").decode(),
        "builder": backend.version(),
    }
    return BuildKey(f"engine-{backend.name}", graph.name, facts | backend.key_facts(options))


def _compile(graph: Graph, backend: Backend, options: BuildOptions, store: Store, reporter: Reporter) -> CompiledEngine:
    key = engine_key(graph, backend, options)
    found = store.find(key)
    reporter.begin(graph.name, "" if found else store.why_missing(key))

    def fill(folder: Path) -> None:
        (folder / "engine").mkdir()
        try:
            files = backend.build(
                graph.onnx,
                graph.spec,
                options,
                folder / "engine",
                lambda phase, done, total: reporter.advance(graph.name, phase, done, total),
            )
            checked = audit(graph, files)
        except EngineBuildError as err:
            raise _with_log(err, graph.name, backend.name, store) from err
        (folder / LOG).write_text(files.log)
        built = _Built(files.engine.name, [path.name for path in files.weights], checked)
        (folder / RECORD).write_bytes(msgspec.json.encode(built))

    entry = found or store.make(key, fill, lambda: reporter.wait(graph.name))
    built = msgspec.json.decode((entry / RECORD).read_bytes(), type=_Built)
    engine, *weights = (entry / "engine" / name for name in (built.engine, *built.weights))
    reporter.end(graph.name, "kept from an earlier build" if found else "")
    options_told = backend.key_facts(options)
    return CompiledEngine(graph, EngineFiles(engine, tuple(weights)), key.digest, options_told, built.audit)


def _with_log(err: EngineBuildError, name: str, backend: str, store: Store) -> EngineBuildError:
    """The error with its builder's log kept outside the unfinished entry, which goes."""
    if not err.log:
        return err
    logs = store.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / f"{backend}-{name}.log"
    file.write_text(err.log)
    return EngineBuildError(err.message, f"{err.hint}{'; ' if err.hint else ''}the builder's log is {file}", err.log)
