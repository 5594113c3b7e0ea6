"""Writes a graph and says how near it comes to its authors' package: `scripts/export_perceptual --help`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import torch

from hsexport.build.quiet import hush_libraries
from hsexport.measure.perceptual.network import LPIPS, STLPIPS
from hsexport.measure.perceptual.network import Perceptual as Graph
from hsexport.onnx.passes.strip_metadata import StripMetadata

from .networks import Lpips, Perceptual, ShiftTolerant
from .packages import LPIPS_WEIGHTS, STLPIPS_WEIGHTS, licence_of, lpips_distances, stlpips_distances, weights_in
from .pictures import pairs

OPSET = 20
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def write_graph(path: Path, network: Perceptual) -> None:
    """pictures, references (B, H, W, 3) uint8 -> distances (B,) float32, weights inside."""
    sides = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    examples = tuple(torch.zeros(2, 48, 64, 3, dtype=torch.uint8) for _ in range(2))
    program = torch.onnx.export(
        network.eval(),
        examples,
        input_names=["pictures", "references"],
        output_names=["distances"],
        dynamic_shapes=(sides, sides),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    StripMetadata()(program.model)
    program.save(str(path), external_data=False)


def write(graph: Graph, network: Perceptual) -> None:
    """Writes a graph to its place."""
    with hush_libraries():
        write_graph(graph.file, network)
    click.echo(f"{graph.file}: {graph.file.stat().st_size / 1e6:.2f} MB")


def tell(graph: Graph, theirs: Mapping[str, float]) -> None:
    """Prints the graph's distances beside the package's."""
    for name, (picture, reference) in pairs(graph.least_side).items():
        ours = graph.distances(picture[None], reference[None])[0]
        click.echo(f"{name:28} {ours:.6f}, the package {theirs[name]:.6f}")


@click.group()
def main() -> None:
    """Writes graphs of perceptual distances from published weights."""


@main.command()
@click.argument("wheel", type=FILE)
def stlpips(wheel: Path) -> None:
    """ST-LPIPS and its licence, from stlpips_pytorch's wheel."""
    write(STLPIPS, ShiftTolerant(weights_in(wheel, STLPIPS_WEIGHTS)))
    STLPIPS.file.with_name("LICENSE").write_bytes(licence_of(wheel))
    tell(STLPIPS, stlpips_distances(wheel, pairs(STLPIPS.least_side)))


@main.command()
@click.argument("wheel", type=FILE)
@click.argument("alexnet", type=FILE)
def lpips(wheel: Path, alexnet: Path) -> None:
    """LPIPS, from lpips's wheel and the file of torchvision's AlexNet; from then on bench and tune know it."""
    weights = torch.load(alexnet, map_location="cpu", weights_only=True)
    write(LPIPS, Lpips({**weights, **weights_in(wheel, LPIPS_WEIGHTS)}))
    tell(LPIPS, lpips_distances(wheel, weights, pairs(LPIPS.least_side)))


if __name__ == "__main__":
    main()
