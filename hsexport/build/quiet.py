"""Keeps the libraries' chatter off the terminal, where our own progress is shown."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec


@contextmanager
def hush_libraries() -> Iterator[None]:
    """Silences transformers' and diffusers' progress bars, advice and warnings, where they are installed."""
    for name in ("transformers", "diffusers"):
        if find_spec(name) is not None:
            library = import_module(f"{name}.utils.logging")
            library.set_verbosity(logging.CRITICAL)
            library.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
