"""Keeps the libraries' chatter off the terminal, where our own progress is shown."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hush_libraries() -> Iterator[None]:
    """Silences progress bars, advice and warnings of transformers and diffusers; errors still raise."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for module in (transformers_logging, diffusers_logging):
        module.set_verbosity(logging.CRITICAL)
        module.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
