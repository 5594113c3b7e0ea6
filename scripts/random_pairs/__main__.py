"""Writes a pair of a real architecture with random weights: `scripts/random_pair --help`."""

from __future__ import annotations

import resource
from pathlib import Path
from time import perf_counter

import click
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hsengines.errors import HSError
from hsexport.build.quiet import hush_libraries
from random_pairs.families import FAMILIES
from random_pairs.family import PairShape
from random_pairs.pairs import MADE_FROM, PairFiles, pair_files, write_pair
from random_pairs.weights import Shard

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAMES = [name for row in FAMILIES.values() for name in row.transformers]


def write_told(files: PairFiles) -> tuple[Path, Path]:
    """Writes the pair under a bar of bytes; in a log, a line a shard."""
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("writing", total=files.size_bytes)
        return write_pair(files, lambda shard: _tell(progress, task, files.root, shard))


def _tell(progress: Progress, task: TaskID, root: Path, shard: Shard) -> None:
    place = shard.file.parent.relative_to(root)
    progress.update(task, advance=shard.size_bytes, description=f"{place} {shard.number}/{shard.of}")
    if not progress.console.is_terminal:
        progress.console.print(f"{place}: shard {shard.number} of {shard.of}, {shard.size_bytes / 1e6:.0f} MB")


def refuse_foreign(out: Path) -> None:
    """Keeps a folder that this command did not make from being emptied."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / MADE_FROM).is_file())):
        raise HSError(f"{out} holds something else than a random pair", "name a folder that is new or empty")


def shape_of(family: str, large: str | None, small: str | None, *, tiny_text: bool) -> PairShape:
    """The pair asked for. Raises HSError for a transformer of another family."""
    row = FAMILIES[family]
    for name in filter(None, (large, small)):
        if name not in row.transformers:
            raise HSError(f"{name} is not of the family {family}", f"choose of {', '.join(row.transformers)}")
    return row.pair(large or row.transformers[0], small or row.transformers[1], tiny_text=tiny_text)


def _at(place: int) -> str:
    """The name that stands there in each family."""
    return " or ".join(row.transformers[place] for row in FAMILIES.values())


@click.command(context_settings={"show_default": True})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="gets the folders large, a whole pipeline, and small, a transformer with what it does not share",
)
@click.option("--family", type=click.Choice(list(FAMILIES)), default="sd3")
@click.option("--large", type=click.Choice(NAMES), help=f"default: {_at(0)}")
@click.option("--small", type=click.Choice(NAMES), help=f"default: {_at(1)}")
@click.option("--layers", type=click.IntRange(1), help="cut every kind of layers of both transformers down to so many")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bf16")
@click.option(
    "--text",
    type=click.Choice(["real", "tiny"]),
    default="real",
    help="text encoders of real size, or the least that fit",
)
def main(
    out: Path, family: str, large: str | None, small: str | None, layers: int | None, dtype: str, text: str
) -> None:
    """Write a pair in diffusers' layout, shard by shard. Killed anywhere, the same command goes on at its shard."""
    refuse_foreign(out)
    shape = shape_of(family, large, small, tiny_text=text == "tiny")
    start = perf_counter()
    with hush_libraries():
        files = pair_files(out, shape.cut(layers), DTYPES[dtype])
        written = write_told(files)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    Console(highlight=False).print(
        f"{files.size_bytes / 1e9:.2f} GB in {perf_counter() - start:.1f} s, at most {peak_mb:.0f} MB of memory\n"
        f"--large {written[0]} --small {written[1]}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    try:
        main()
    except HSError as err:
        raise SystemExit(f"random_pair: {err}") from None
