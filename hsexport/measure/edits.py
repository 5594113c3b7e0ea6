"""Drawing a part of a picture anew: the preset `edit` beside the whole picture drawn at every step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from hsexport.measure.blocks import PATH, Measured, bundle_argument, measured_on, measurement, table
from hsexport.measure.pictures import psnr
from hsexport.measure.prompts import prompts_for
from hsexport.measure.turns import column, in_turns, median_of, play, speedups
from hsruntime import Session
from hsruntime.picture.picture import contact_sheet
from hsruntime.request import Result

AREAS = (0.1, 0.3, 0.6)
STEPS = 28
WHOLE = "large"
BESIDE = {
    "edit": "large:1,region+held:{left};signal=mask,refresh=2,text=cached",
    "every fifth step whole": "large:1,region+held:{left};signal=mask,refresh=4,text=cached",
    "guidance, text of its own": "large:1,region:{left};signal=mask,refresh=2",
    "the same, every fifth": "large:1,region:{left};signal=mask,refresh=4",
    "the same, none": "large:1,region:{left};signal=mask",
}
"""What stands beside the whole picture, in words and written out."""
STRENGTH = 0.8
SHOWN = 4


def schedules() -> dict[str, str]:
    """By name; the whole picture first."""
    return {WHOLE: f"large:{STEPS}", **{name: text.format(left=STEPS - 1) for name, text in BESIDE.items()}}


def box(size: tuple[int, int], area: float) -> np.ndarray:
    """A mask (H, W) uint8, bright on a box of that share in the middle of a picture of `size` (width, height)."""
    mask = np.zeros(size[::-1], np.uint8)
    sides = [round(side * area**0.5) for side in mask.shape]
    (top, left), (h, w) = [(side - own) // 2 for side, own in zip(mask.shape, sides, strict=True)], sides
    mask[top : top + h, left : left + w] = 255
    return mask


def block(report: Measured) -> str:
    """A row for each schedule and mask."""
    columns = (
        "mask: {area:.0%} | schedule: {name}, `{schedule}` | picture ms: {ms:.0f}"
        " | over the whole's time: {over_whole[value]:.2f} ({over_whole[low]:.2f} to {over_whole[high]:.2f})"
        " | loop over the whole's: {loop_over_whole:.2f} | PSNR inside the mask, dB: {psnr:.1f}"
    )
    return table(columns, report["rows"]) + measured_on(
        report, f"{report['prompts']} prompts in turns, strength {report['strength']:g}"
    )


@measurement(block)
@bundle_argument
@click.option("--prompts", "count", default=12, type=click.IntRange(2), help="pictures, each drawn towards the next's")
@click.option("--sheet", type=PATH, metavar="FILE", help="also write some of the pictures as a contact sheet")
def edits(bundle: Path, count: int, sheet: Path | None) -> dict[str, Any]:
    """Draw a part of pictures anew by large over the whole picture, and on the mask's tokens alone, in turns."""
    with Session.open(bundle) as session:
        prompts = [prompt.text for prompt in prompts_for(session.manifest, None, count)]
        originals = [session.generate(prompt, seed=i, schedule=WHOLE).image for i, prompt in enumerate(prompts)]
        asked, columns = schedules(), {"original": originals[:SHOWN]}
        rows: list[dict[str, Any]] = []
        size = originals[0].shape[1::-1]
        for area in AREAS:
            mask = box(size, area)

            def drawn(number: int, schedule: str, mask: np.ndarray = mask) -> Result:
                """The picture of one prompt drawn towards the next one's."""
                return session.generate(
                    prompts[(number + 1) % len(prompts)],
                    image=originals[number],
                    mask=mask,
                    strength=STRENGTH,
                    seed=number,
                    schedule=schedule,
                )

            in_turns({name: partial(drawn, 0, text) for name, text in asked.items()}, 0)  # what is bound is bound
            played = [
                play({name: partial(drawn, number, text) for name, text in asked.items()}, number)
                for number in range(len(prompts))
            ]
            rows += _rows(area, asked, played, mask > 0)
            columns |= dict(_shown(area, played))
        if sheet:
            contact_sheet(columns, prompts[:SHOWN]).save(sheet)
    return {"prompts": len(prompts), "strength": STRENGTH, "rows": rows}


def _rows(
    area: float, asked: dict[str, str], played: list[dict[str, Result]], inside: np.ndarray
) -> Iterator[dict[str, Any]]:
    whole = {field: column(played, WHOLE, field) for field in ("seconds", "loop_seconds")}
    for name in asked:
        seconds, loops = (column(played, name, field) for field in whole)
        pairs = [(each[name].image[inside], each[WHOLE].image[inside]) for each in played]
        yield {
            "area": area,
            "name": name,
            "schedule": str(played[0][name].schedule),
            "ms": 1000 * float(np.median(seconds)),
            "over_whole": vars(median_of(speedups(seconds, whole["seconds"]))),
            "loop_over_whole": float(np.median(loops / whole["loop_seconds"])),
            "psnr": float(np.mean([psnr(own[None, None], other[None, None])[0] for own, other in pairs])),
        }


def _shown(area: float, played: list[dict[str, Result]]) -> Iterator[tuple[str, list[np.ndarray]]]:
    yield f"whole, {area:.0%}", [each[WHOLE].image for each in played[:SHOWN]]
    yield f"edit, {area:.0%}", [each["edit"].image for each in played[:SHOWN]]
