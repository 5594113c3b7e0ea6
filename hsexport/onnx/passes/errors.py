"""What a pass raises where a graph is not what it takes."""

from __future__ import annotations

from hsengines.errors import HSError


class PassError(HSError):
    """A graph does not meet a pass's precondition; the message names the pass and the node or tensor."""
