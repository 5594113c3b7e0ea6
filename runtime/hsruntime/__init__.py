"""Runs bundles: pictures from prompts by stitched diffusion, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsruntime.session import Result as Result
    from hsruntime.session import Session as Session
    from hsruntime.text.encode import TextEmbeddings as TextEmbeddings

__all__ = ["Result", "Session", "TextEmbeddings"]


def __getattr__(name: str) -> Any:
    """Loads the session machinery on first use: `import hsruntime` itself needs nothing and costs nothing."""
    if name in __all__:
        from hsruntime import session

        return getattr(session, name)
    raise AttributeError(f"module 'hsruntime' has no attribute '{name}'")
