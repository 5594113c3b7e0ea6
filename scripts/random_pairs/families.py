"""Which families there are."""

from __future__ import annotations

from random_pairs.family import Family
from random_pairs.flux2.pair import FLUX2
from random_pairs.sd3.pair import SD3

FAMILIES: dict[str, Family] = {"sd3": SD3, "flux2": FLUX2}
