"""A tensor that is some of the rows of another: what fused layouts hold, taken apart without a copy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hsexport.checkpoints.shards import TensorHeader


@dataclass(frozen=True)
class Place:
    """Of `source`'s rows, cut into `parts` equal ranges, those in `order`, one after the other."""

    source: str
    parts: int = 1
    order: tuple[int, ...] = (0,)

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """First row and the one behind the last, for a source of so many rows."""
        size = rows // self.parts
        return [(number * size, (number + 1) * size) for number in self.order]

    def taken_from(self, header: TensorHeader, name: str) -> TensorHeader:
        """The tensor that lies here, under its own name; its source's rows can be cut evenly."""
        ((offset, size_bytes),) = header.pieces
        rows = header.shape[0] if header.shape else 1
        row_bytes, ranges = size_bytes // max(rows, 1), self.ranges(rows)
        return replace(
            header,
            name=name,
            shape=(sum(stop - start for start, stop in ranges), *header.shape[1:]) if header.shape else (),
            pieces=tuple((offset + start * row_bytes, (stop - start) * row_bytes) for start, stop in ranges),
        )
