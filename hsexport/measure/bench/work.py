"""Rounds that are done, kept one a file: a killed run goes on after the last of them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

import hsengines
import hsruntime
from hsengines.errors import HSError
from hsengines.files import replaced
from hsexport.measure.bench.rounds import Round, Shot
from hsexport.measure.prompts import Prompt

VERSION = 1


class _ShotRecord(msgspec.Struct, frozen=True):
    seconds: float
    loop_seconds: float
    schedule: str
    predicted: float
    has_region: bool


class _RoundRecord(msgspec.Struct, frozen=True):
    seed: int
    prompt: str
    cut: bool
    shots: dict[str, _ShotRecord]
    distances: dict[str, dict[str, dict[str, float]]]


class Work:
    """A folder of rounds. Whole rounds only: times are compared within one, never across runs."""

    def __init__(self, folder: Path, facts: Sequence[str]) -> None:
        """`facts`: everything that decides a round besides its prompt and who draws it."""
        self._folder = folder
        self._facts = [str(VERSION), _code_digest(), *facts]

    def find(self, prompt: Prompt, entrants: Mapping[str, str]) -> Round | None:
        """The round as it was kept. Raises HSError for a file that is not whole."""
        file = self._file(prompt, entrants)
        if not file.exists():
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                return _round_from(archive)
        except (zipfile.BadZipFile, msgspec.DecodeError, KeyError, OSError) as err:
            raise HSError(f"{file} is damaged: {err}", "delete it, and the round is drawn again") from err

    def keep(self, entrants: Mapping[str, str], played: Round) -> None:
        """Writes a round; a kill leaves it whole or not there."""
        file = self._file(played.prompt, entrants)
        with replaced(file) as part, zipfile.ZipFile(part, "w") as archive:
            _write_round(archive, played)

    def _file(self, prompt: Prompt, entrants: Mapping[str, str]) -> Path:
        key = json.dumps([self._facts, list(entrants.items()), prompt.seed, prompt.text])
        return self._folder / f"{prompt.seed:05d}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.zip"


def _write_round(archive: zipfile.ZipFile, played: Round) -> None:
    records = {}
    for number, (name, shot) in enumerate(played.shots.items()):
        archive.writestr(f"{number}.png", _png_from(shot.picture))
        if shot.region is not None:
            archive.writestr(f"{number}-region.png", _png_from(shot.region.astype(np.uint8) * 255))
        kept = {k: v for k, v in asdict(shot).items() if k not in ("picture", "region")}
        records[name] = _ShotRecord(**kept, has_region=shot.region is not None)
    record = _RoundRecord(played.prompt.seed, played.prompt.text, played.cut, records, dict(played.distances))  # type: ignore[arg-type]
    archive.writestr("round.json", msgspec.json.encode(record))


def _round_from(archive: zipfile.ZipFile) -> Round:
    record = msgspec.json.decode(archive.read("round.json"), type=_RoundRecord)
    shots = {}
    for number, (name, kept) in enumerate(record.shots.items()):
        region = _pixels_of(archive.read(f"{number}-region.png")) > 0 if kept.has_region else None
        picture = _pixels_of(archive.read(f"{number}.png"))
        shots[name] = Shot(picture, kept.seconds, kept.loop_seconds, kept.schedule, kept.predicted, region)
    return Round(Prompt(record.seed, record.prompt), shots, record.distances, record.cut)


def _png_from(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


def _code_digest() -> str:
    """sha256 over the source of what draws and times: rounds of an older one are not taken up."""
    digest = hashlib.sha256()
    for package in (hsengines, hsruntime):
        for file in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
