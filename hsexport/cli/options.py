"""Options that several commands take, and option values that need reading."""

from __future__ import annotations

from collections.abc import Iterable

import click

from hsexport.cli.command import one_of


def size_from_text(text: str) -> tuple[int, int]:
    """`1024x768` as (width, height). Raises click.BadParameter, which is a usage error."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"'{text}' is not a size; write WIDTHxHEIGHT, for example 1024x768")
    return int(width), int(height)


def preset_names() -> Iterable[str]:
    """What `--schedule` may be called by name."""
    from hsruntime.schedule.presets import PRESETS

    return PRESETS


presets = one_of(preset_names)
schedule = click.option(
    "--schedule", shell_complete=presets, help="hybridstitch, large, small, or large:10,hybrid:10,small:8"
)
steps = click.option("--steps", type=int, help="steps of a preset")
guidance_scale = click.option("--guidance-scale", type=float, help="1 or less switches guidance off")
size = click.option("--size", metavar="WxH", type=size_from_text, help="in pixels, within the bundle's range")
threads = click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads, 0 for all")
graphs = click.option("--graphs/--no-graphs", default=True, help="replay steps as CUDA graphs; a CPU has none")
memory_cap = click.option("--memory-cap", type=float, help="MiB that tensors may take on the device")
vae_tile = click.option(
    "--vae-tile", metavar="PIXELS", default=0, help="decode larger pictures in tiles of this side; 0 decodes whole"
)
max_batch = click.option(
    "--max-batch",
    type=click.IntRange(1),
    help="pictures drawn together; default: as built on a GPU, 1 on a CPU",
)
