"""Writes what is shipped of the judge: its graph and the real pictures' statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession

from hsexport.onnx.passes.strip_metadata import StripMetadata

from .network import Judge, PictureJudge

OPSET = 20


def write_graph(path: Path, judge: Judge, side: int) -> None:
    """`judge.onnx`: pictures (B, side, side, 3) uint8 -> features (B, F), logits (B, names), weights inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.zeros(2, side, side, 3, dtype=torch.uint8),)
    program = torch.onnx.export(
        PictureJudge(judge.eval()).eval(),
        example,
        input_names=["pictures"],
        output_names=["features", "logits"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    StripMetadata()(program.model)
    program.save(str(path), external_data=False)


def judged(session: InferenceSession, pictures: np.ndarray, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, F) and logits (count, names) of pictures (count, 128, 128, 3) uint8."""
    parts = [
        session.run(["features", "logits"], {"pictures": pictures[i : i + batch]})
        for i in range(0, len(pictures), batch)
    ]
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)


def write_reference(path: Path, features: np.ndarray) -> None:
    """`reference.npz`: `mean` (F,) and `covariance` (F, F), float64, of the real pictures' features (count, F)."""
    exact = features.astype(np.float64)
    np.savez(path, mean=exact.mean(axis=0), covariance=np.cov(exact, rowvar=False))
