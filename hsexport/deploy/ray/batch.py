"""A picture for every line of a prompt file, drawn by replicas in Ray Data's actor pool; what is there is kept."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from filelock import FileLock, Timeout
from msgspec import Meta, Struct, structs
from PIL import Image

from hsengines.backend import get_backend
from hsengines.errors import BackendUnavailable, HSError
from hsexport.deploy.ray.executor import Executor, Ledger, Pictures, Source, Task, gpus_of_each, threads_of_each
from hsexport.deploy.ray.prompt_file import Line, read_prompts
from hsexport.progress import Reporter
from hsruntime.adapters.asked import Folder
from hsruntime.batching import most_together
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import open_bundle
from hsruntime.facts import Size
from hsruntime.options import PICTURE_FILES, Count, PictureOptions, SessionOptions, Side, schemas_of
from hsruntime.picture.original import png_bytes
from hsruntime.request import seed_list
from hsruntime.telling import warnings_kept

_MOST_BLOCKS = 2000  # Ray Data's own cost per block shows beyond some thousand
_OBJECT_STORE_BYTES = 128 * 2**20  # prompts go through it, pictures do not
Share = Annotated[float, Meta(ge=0)]


class BatchOptions(Struct, frozen=True, kw_only=True):
    """How a job's pictures are spread."""

    replicas: Annotated[Side, Meta(description="sessions that draw at the same time")] = 1
    gpus_per_replica: Annotated[Share | None, Meta(description="default: 1, or 0 on a CPU")] = None
    max_batch: Annotated[
        Side | None, Meta(description="pictures drawn together; default: as built on a GPU, 1 on a CPU")
    ] = None
    device: Annotated[str, Meta(description=schemas_of(SessionOptions)["device"]["description"])] = ""
    threads: Annotated[Count, Meta(description="CPU threads of each replica; 0 shares the cores out")] = 0
    adapter_folder: Annotated[
        str | None, Meta(description=schemas_of(SessionOptions)["adapter_folder"]["description"])
    ] = None


@dataclass(frozen=True)
class Summary:
    """How a job ended. failed: a line for each picture that is not there."""

    done: int
    kept: int
    failed: tuple[str, ...]


def run_batch(
    path: Path, prompts: Path, out: Path, asked: PictureOptions, options: BatchOptions, reporter: Reporter
) -> Summary:
    """Draws what `out` lacks; kept pictures are those of the same prompt, seed, options and bundle.

    A prompt that cannot be drawn is recorded as failed and does not end the job. Raises HSError for what concerns the
    whole job: the bundle, the file, the options, the machine, or another job in `out`.
    """
    manifest = open_bundle(path).manifest
    lines = read_prompts(prompts)
    _check(manifest, asked, lines, options)
    tasks = tasks_of(lines, asked, manifest, prompts.parent)
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out)
    with _alone_in(out):
        ledger.clear_leftovers()
        missing = [task for task in tasks if not ledger.has(task)]
        reporter.stage("batch", len(missing))
        counts, failed = {"done": 0, "kept": len(tasks) - len(missing)}, []
        reporter.begin("a picture")
        for status, error in _outcomes(path, out, missing, manifest, options, pictures_of(asked)):
            reporter.end("a picture", error)
            reporter.begin("a picture")
            if status == "failed":
                failed.append(error)
            else:
                counts[status] += 1
    return Summary(**counts, failed=tuple(failed))


def pictures_of(asked: PictureOptions) -> dict[str, bytes]:
    """Files that all of a job's pictures share, by the option."""
    return {name: data for name in PICTURE_FILES if (data := getattr(asked, name)) is not None}


def tasks_of(lines: Sequence[Line], asked: PictureOptions, manifest: Manifest, folder: Path) -> list[Task]:
    """A task for each line, those that cannot be drawn included; `folder` is where the files lie that lines name.

    Line i has the seed asked for + i; its prompt and, if it names them, other prompts, seed and pictures are its own.
    """
    tasks, folder = [], folder.resolve()
    shared = {name: sha256(data).hexdigest() for name, data in pictures_of(asked).items()}
    asked = structs.replace(asked, **dict.fromkeys(PICTURE_FILES))
    for line, seed in zip(lines, seed_list(asked.seed, len(lines)), strict=True):
        row = structs.asdict(line.row) if line.row else {"prompt": line.text}
        own: dict[str, Any] = {"seed": seed} | {name: value for name, value in row.items() if value is not None}
        sources = {name: Source.of(own.pop(name), folder) for name in PICTURE_FILES if name in own}
        wanted = structs.replace(asked, **own)
        tasks.append(Task(line.index, line.number, wanted, manifest.identity, line.fault, sources, shared))
    return tasks


def _check(manifest: Manifest, asked: PictureOptions, lines: Sequence[Line], options: BatchOptions) -> None:
    """What would fail every picture fails once, before anything starts."""
    named = {name for line in lines if line.row for name in PICTURE_FILES if getattr(line.row, name)}
    stand_ins = dict.fromkeys(named - set(pictures_of(asked)), _white(manifest.facts.sizes.default))
    with warnings_kept():
        request = structs.replace(asked, prompt="", **stand_ins).completed(manifest)
    Folder(options.adapter_folder).check(request.adapters)
    backend = get_backend(manifest.backend)
    if why := backend.why_not_here():
        raise BackendUnavailable(f"backend '{manifest.backend}' does not run here: {why}", "run the job elsewhere")
    backend.check_device(options.device)


def _white(size: Size) -> bytes:
    """In place of pictures that lines name, which are read when those are drawn."""
    return png_bytes(Image.new("L", size, "white"))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / ".batch.lock", timeout=0):
            yield
    except Timeout:
        raise HSError(f"another job is writing to '{out}'", "wait for it, or name another --out") from None


def _outcomes(
    path: Path, out: Path, tasks: list[Task], manifest: Manifest, options: BatchOptions, shared: Pictures
) -> Iterator[tuple[str, str]]:
    """Status and error of each task, as they end."""
    if not tasks:
        return
    import ray

    gpus = gpus_of_each(manifest, options.gpus_per_replica)
    together = most_together(manifest, options.max_batch)
    threads = threads_of_each(options.replicas, options.threads)
    folder = str(Path(options.adapter_folder).resolve()) if options.adapter_folder else None
    with _ray(options.replicas):
        found, wanted = ray.cluster_resources().get("GPU", 0), gpus * options.replicas
        if found < wanted:  # Ray would wait for them for ever
            told = f"the replicas need {wanted:g} GPUs, this machine has {found:g}"
            raise HSError(told, "ask for fewer --replicas")
        items = [{"task": task.json} for task in tasks]
        blocks = min(-(-len(items) // together), _MOST_BLOCKS)
        drawn = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            Executor,
            fn_constructor_args=(str(path.resolve()), str(out.resolve()), options.device, threads, shared, folder),
            batch_size=together,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=options.replicas, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        for row in drawn.iter_rows():
            yield row["status"], row["error"]


@contextmanager
def _ray(replicas: int) -> Iterator[None]:
    """Ray on this machine alone, for as long as the job lasts; nothing of it stays, and it speaks to nobody else."""
    import ray
    import ray.data

    with TemporaryDirectory(prefix="hsexport-ray-", dir="/tmp") as folder:  # paths of sockets must be short
        if not any(name.startswith("RAY_AUTH_") for name in os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()  # else Ray writes one into the user's home
        with _no_metadata_services(ray.util.get_node_ip_address()):
            ray.init(
                address="local",
                num_cpus=replicas + 1,  # what Ray counts; a replica's threads are its own affair
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        context: Any = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _no_metadata_services(own_address: str) -> Iterator[None]:
    """One of Ray's processes asks the clouds' metadata services where it runs: a proxy that is not there answers."""
    kept = dict(os.environ)
    os.environ |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), f"localhost,127.0.0.1,{own_address}")
    try:
        yield
    finally:
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
            os.environ.pop(name)
            os.environ |= {name: kept[name]} if name in kept else {}
