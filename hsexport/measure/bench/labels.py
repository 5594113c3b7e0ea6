"""Where labels stand: beside their points, inside the frame, over as little as there is room for.

Boxes are rows of left, bottom, right, top, in pixels; y goes up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIRECTIONS = np.arange(24) * (2 * np.pi / 24)
GAPS = (8.0, 12.0, 18.0, 27.0, 38.0, 52.0)  # pixels between a point and its label
PASSES = 4  # a label that stands may make way for one that found worse room
STROKE, DISTANCE = 0.2, 1.2
"""What a pixel over a stroke, and a pixel away from the point, weigh beside one over a mark or over another label."""


@dataclass(frozen=True)
class Ground:
    """What labels lie on."""

    frame: np.ndarray  # (4,), which none may leave
    marks: np.ndarray  # (count, 4) boxes
    strokes: np.ndarray  # (count, 4) boxes of lines, which labels cross where they must


def placed(points: np.ndarray, sizes: np.ndarray, ground: Ground) -> np.ndarray:
    """Boxes (n, 4) of labels of sizes (n, 2) at points (n, 2); the first choose first. Sizes fit into the frame."""
    choices = [_choices(point, size, ground) for point, size in zip(points, sizes, strict=True)]
    boxes = np.zeros((0, 4))
    for number, (found, costs) in enumerate(choices):
        boxes = np.concatenate([boxes, _cheapest(found, costs, boxes[:number])[None]])
    for _ in range(PASSES):
        for number, (found, costs) in enumerate(choices):
            boxes[number] = _cheapest(found, costs, np.delete(boxes, number, axis=0))
    return boxes


def covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas (n, m) that boxes (n, 4) and others (m, 4) share."""
    least, most = (
        np.maximum(boxes[:, None, :2], others[None, :, :2]),
        np.minimum(boxes[:, None, 2:], others[None, :, 2:]),
    )
    return np.clip(most - least, 0, None).prod(axis=2)


def _choices(point: np.ndarray, size: np.ndarray, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """All boxes (k, 4) that a label may take, each moved into the frame, and what each costs whatever the others do."""
    gaps = np.repeat(GAPS, len(DIRECTIONS))[:, None]
    angles = np.tile(DIRECTIONS, len(GAPS))
    middles = point + np.stack([np.cos(angles), np.sin(angles)], axis=1) * (gaps + size / 2)
    lower = np.clip(middles - size / 2, ground.frame[:2], ground.frame[2:] - size)
    boxes = np.concatenate([lower, lower + size], axis=1)
    away = np.linalg.norm(np.clip(point, boxes[:, :2], boxes[:, 2:]) - point, axis=1)
    on_marks, on_strokes = (covered(boxes, others).sum(axis=1) for others in (ground.marks, ground.strokes))
    return boxes, on_marks + STROKE * on_strokes + DISTANCE * away


def _cheapest(boxes: np.ndarray, costs: np.ndarray, others: np.ndarray) -> np.ndarray:
    return boxes[np.argmin(costs + covered(boxes, others).sum(axis=1))]
