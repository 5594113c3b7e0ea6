"""numpy's view of an element type; bfloat16 is the one that numpy itself does not know."""

from __future__ import annotations

import numpy as np

FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""A precision, as users name it, to the dtype that its tensors carry."""


def numpy_dtype(name: str) -> np.dtype:
    """The dtype called `name`; ml_dtypes is imported only where a bfloat16 tensor really occurs.

    Raises TypeError for a name that neither knows.
    """
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
