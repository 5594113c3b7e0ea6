"""TensorRT's names of element types, and of what its inspector prints, as numpy's."""

from __future__ import annotations

import re
from typing import Any

_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}

# "Half", "FP16" or, from older releases, "Row major linear FP16 format".
_PRINTED = {"FP32": "float32", "FP16": "float16", "BFLOAT16": "bfloat16", **_NAMES}


def numpy_name(dtype: Any) -> str:
    """What numpy calls a TensorRT DataType; the fp8 and fp4 kinds keep TensorRT's, in lower case."""
    return _NAMES.get(dtype.name, dtype.name.lower())


def numpy_name_of_printed(words: str) -> str:
    """What numpy calls the dtype that an inspector's "Format/Datatype" tells of, or the words themselves."""
    for word in re.findall(r"\w+", words.upper()):
        if word in _PRINTED:
            return _PRINTED[word]
    return words
