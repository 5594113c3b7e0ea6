"""What TensorRT is known to refuse, and what to do about it."""

from __future__ import annotations

import re
from typing import NamedTuple

_LONGEST = 200  # characters of TensorRT's in one line of ours


class Remedy(NamedTuple):
    """`pattern` finds the refusal in TensorRT's words; `said` replaces these where they are no help."""

    pattern: str
    hint: str
    said: str = ""


ATTENTION_WITHOUT_KERNEL = "not supported by a dedicated kernel"

_OUT_OF_MEMORY = r"(?i)out ?of ?memory|bad_alloc|failed_allocation|memory allocation|insufficient memory"

REMEDIES = (
    Remedy(
        ATTENTION_WITHOUT_KERNEL,
        "TensorRT has attention kernels for fp16 and bf16 and for some head sizes: build with --precision fp16 or bf16",
        "it has no kernel for this attention",
    ),
    Remedy(
        "Attention nodes with one output",
        "concatenate keys and values outside the Attention node, so that it has a single output",
        "it takes Attention nodes with one output only",
    ),
    Remedy("K exceeds the maximum", "take fewer elements with TopK, or choose them outside the engine"),
    Remedy(
        "NonZero",
        "keep shapes that depend on data out of the graph: they cannot be captured in a CUDA graph either",
        "it has no NonZero here",
    ),
    Remedy("Plugin not found", "replace the node by standard ONNX operators", "it knows no such operator"),
    Remedy(
        "must have same input types|must have the same type",
        "TensorRT converts nothing by itself: cast the node's inputs to one dtype in the graph",
    ),
    Remedy(
        "HW-specific datatypes: b16", "bf16 needs compute capability 80 or later: leave --arch 75 out, or build in fp16"
    ),
    Remedy(
        "Failed to parse the ONNX model", "the file is damaged: export the network again", "the file is no ONNX model"
    ),
    Remedy("cannot be found", "export the network again", "the file is missing"),
    Remedy(
        "Failed to import initializer|Failed to open file|out of range for file",
        "the weights' file beside the ONNX file is missing or cut short: export the network again",
    ),
    Remedy(
        "Found invalid weights type",
        "TensorRT reads this operator's constants as float32, float16 or integers: leave them out of the cast",
        "it cannot read a constant of this dtype",
    ),
    Remedy("violate shape constraints", "dimensions that must be equal need one name, or one range in each profile"),
    Remedy("no optimization profile has been defined", "give the engine's spec a profile"),
    Remedy("Dimension mismatch for tensor|dimensions but profile", "the graph and the engine's spec disagree"),
    Remedy(r"(?i)int64", "cast indices to int32 in the graph"),
    Remedy(
        _OUT_OF_MEMORY,
        "free memory, or build fewer or smaller profiles (--max-size, --max-batch)",
        "it ran out of memory",
    ),
    Remedy(r"(?i)insufficient workspace|could not find any implementation", "raise or drop the workspace limit"),
    Remedy(
        "CUDA_SUCCESS|CUDA driver version is insufficient|no CUDA-capable device",
        "build on a machine with an NVIDIA GPU and its driver",
        "it needs a GPU for this",
    ),
    Remedy("UNSUPPORTED_NODE", "replace the node by operators that TensorRT has"),
)


def remedy_for(text: str) -> Remedy:
    """The first known refusal that `text` tells of; one without a pattern where none is known."""
    found = next((remedy for remedy in REMEDIES if re.search(remedy.pattern, text)), None)
    return found or Remedy("", "the builder's log has the details")


def is_out_of_memory(text: str) -> bool:
    """Whether TensorRT tells of memory that it did not get."""
    return re.search(_OUT_OF_MEMORY, text) is not None


def in_short(text: str) -> str:
    """What a message of TensorRT says, in one line, without its own file names and conditions."""
    line = text.strip().replace("\n", " ")
    line = re.sub(r"^.*?API Usage Error \(|^.*?Error Code \d+: [\w ]+ \(", "", line)
    line = re.sub(r"Parameter check failed, condition: .*?\. +(?=[A-Z])", "", line)
    line = re.sub(r"\[[\w.]+:\d+: \w+\] ", "", line)
    line = re.sub(r"^Assertion failed: .*?(?<!:):(?!:) (?=[A-Z])", "", line)
    line = re.sub(r"\s*\bIn [\w~]+ at /[^\s)]+", "", line)
    line = re.sub(r"\(See https?:[^)]*\)", "", line)
    line = re.sub(r"\s+", " ", line).strip(" .")
    # What a message was wrapped in has lost its opening bracket above.
    line = line.removesuffix(")" if line.count(")") > line.count("(") else "").rstrip(" .")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rsplit(' ', 1)[0]} ..."
