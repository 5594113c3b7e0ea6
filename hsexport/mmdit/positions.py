"""The position table: its centre, as much of it as the largest picture reaches."""

from __future__ import annotations

import torch

from hsruntime.manifest import PositionTable


def centre_rows(table: torch.Tensor, kept: PositionTable) -> torch.Tensor:
    """Rows (rows * columns, width) of a trained table (1, table_size^2, width): its middle rectangle.

    diffusers crops each picture's positions from the middle of the table (PatchEmbed.cropped_pos_embed), so what
    the largest picture does not reach, no picture does.
    """
    full = table.reshape(kept.table_size, kept.table_size, -1)
    top, left = (kept.table_size - kept.rows) // 2, (kept.table_size - kept.columns) // 2
    return full[top : top + kept.rows, left : left + kept.columns].reshape(kept.rows * kept.columns, -1).contiguous()
