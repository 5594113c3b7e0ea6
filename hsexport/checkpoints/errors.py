"""The one error of this room."""

from __future__ import annotations

from hsengines.errors import HSError


class PairError(HSError):
    """A member of the pair cannot be read, or the two do not belong together."""
