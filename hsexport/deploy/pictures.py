"""Pictures as PNG files that tell what they were made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hsengines.errors import HSError
from hsexport import __version__
from hsruntime.picture.picture import region_overlay, save_png
from hsruntime.request import Request, Result


def check_writable(*files: Path) -> None:
    """Before the work, not after it. Raises HSError."""
    for file in files:
        if file.suffix.lower() not in ("", ".png"):
            raise HSError(f"{file}: pictures are written as PNG", f"name it {file.with_suffix('.png').name}")
        if file.name == "-":
            raise HSError("pictures are written to files, not to stdout", "name a file")
        if not file.parent.is_dir():
            raise HSError(f"{file.parent} is not a directory", "make it first, or write elsewhere")
        if file.is_dir():
            raise HSError(f"{file} is a directory", "name a file in it")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise HSError(f"{file} cannot be written", "write elsewhere")


def provenance(asked: Mapping[str, object]) -> dict[str, str]:
    """The text of a picture's file: what it was made from, and by what."""
    return {**{name: str(value) for name, value in asked.items()}, "software": f"hsexport {__version__}"}


def save_pictures(result: Result, request: Request, out: Path, region: Path | None) -> list[Path]:
    """Writes each picture and, to `region`, each once more with its region marked; several files are numbered."""
    written = []
    for i, picture in enumerate(result.images):
        told = provenance(
            {
                **dict(zip(("prompt", "prompt_2", "prompt_3"), request.prompts[i], strict=False)),
                "seed": request.seeds[i],
                "negative_prompt": request.negative_prompts[i][0],
                "schedule": result.schedule,
                "guidance_scale": f"{request.guidance_scale:g}",
                **({"adapters": ", ".join(result.adapters)} if result.adapters else {}),
            }
        )
        pictures = {out: picture}
        if region and result.region is not None:
            pictures[region] = region_overlay(picture, result.region[i], result.grid)
        for path, pixels in pictures.items():
            written.append(numbered(path, i, request.pictures))
            save_png(written[-1], pixels, told)
    return written


def numbered(path: Path, index: int, count: int) -> Path:
    """`picture.png` as `picture-0.png` if there are several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")
