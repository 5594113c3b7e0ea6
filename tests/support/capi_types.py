"""hsruntime.h as ctypes sees it; a test compares it with what the compiler makes of the header."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

import numpy as np

STATUSES = (
    *("OK", "ERROR_ARGUMENT", "ERROR_PYTHON", "ERROR_BUNDLE", "ERROR_REQUEST", "ERROR_BACKEND", "ERROR_DEVICE"),
    *("ERROR_MEMORY", "CANCELLED", "ERROR_OTHER", "ERROR_INTERNAL"),
)
OK, ARGUMENT, PYTHON, BUNDLE, REQUEST, BACKEND, DEVICE, MEMORY, CANCELLED, OTHER, INTERNAL = range(len(STATUSES))


class Tensor(c.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", c.c_void_p),
        ("device_type", c.c_int32),
        ("device_id", c.c_int32),
        ("ndim", c.c_int32),
        ("code", c.c_uint8),
        ("bits", c.c_uint8),
        ("lanes", c.c_uint16),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("byte_offset", c.c_uint64),
    )


class Managed(c.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", Tensor), ("context", c.c_void_p), ("deleter", c.CFUNCTYPE(None, c.c_void_p)))


class Progress(c.Structure):
    """hsr_progress."""

    _fields_ = (("struct_size", c.c_size_t), ("step", c.c_int32), ("steps", c.c_int32), ("mode", c.c_char_p))


Step = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Progress))


class OpenOptions(c.Structure):
    """hsr_open_options."""

    _fields_ = (
        ("struct_size", c.c_size_t),
        ("python", c.c_char_p),
        ("python_library", c.c_char_p),
        ("threads", c.c_int32),
        ("flags", c.c_uint32),
        ("memory_cap_mb", c.c_double),
        ("vae_tile", c.c_int32),
        ("identity", c.c_char_p),
        ("device", c.c_char_p),
        ("adapters", c.c_char_p),
        ("adapter_folder", c.c_char_p),
        ("adapter_cap_mb", c.c_double),
    )


class Embedding(c.Structure):
    """hsr_embedding."""

    _fields_ = (("name", c.c_char_p), ("tensor", c.POINTER(Tensor)))


class File(c.Structure):
    """hsr_file."""

    _fields_ = (("data", c.c_char_p), ("size", c.c_size_t))


class Request(c.Structure):
    """hsr_request."""

    _fields_ = (
        ("struct_size", c.c_size_t),
        ("prompts", c.POINTER(c.c_char_p)),
        ("prompt_count", c.c_size_t),
        ("negative_prompts", c.POINTER(c.c_char_p)),
        ("negative_prompt_count", c.c_size_t),
        ("seeds", c.POINTER(c.c_uint64)),
        ("seed_count", c.c_size_t),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("steps", c.c_int32),
        ("guidance_scale", c.c_double),
        ("schedule", c.c_char_p),
        ("embeddings", c.POINTER(Embedding)),
        ("embedding_count", c.c_size_t),
        ("latents", c.POINTER(Tensor)),
        ("on_step", Step),
        ("user", c.c_void_p),
        ("prompt_2s", c.POINTER(c.c_char_p)),
        ("prompt_2_count", c.c_size_t),
        ("prompt_3s", c.POINTER(c.c_char_p)),
        ("prompt_3_count", c.c_size_t),
        ("lora", c.c_char_p),
        ("image", File),
        ("mask", File),
        ("region_mask", File),
        ("strength", c.c_double),
        ("mask_blur", c.c_double),
        ("reference", File),
        ("reference_2", File),
        ("reference_3", File),
        ("reference_4", File),
    )


class Result(c.Structure):
    """hsr_result."""

    _fields_ = (
        ("struct_size", c.c_size_t),
        ("images", c.POINTER(Managed)),
        ("latents", c.POINTER(Managed)),
        ("region", c.POINTER(Managed)),
        ("schedule", c.c_char_p),
        ("seconds", c.c_double),
        ("loop_seconds", c.c_double),
        ("grid_height", c.c_int32),
        ("grid_width", c.c_int32),
        ("warnings", c.c_char_p),
    )


class NamedTensor(c.Structure):
    """hsr_named_tensor."""

    _fields_ = (("name", c.c_char_p), ("tensor", c.POINTER(Managed)))


class Embeddings(c.Structure):
    """hsr_embeddings."""

    _fields_ = (("struct_size", c.c_size_t), ("count", c.c_size_t), ("tensors", c.POINTER(NamedTensor)))


STRUCTS = {
    "hsr_progress": Progress,
    "hsr_open_options": OpenOptions,
    "hsr_embedding": Embedding,
    "hsr_file": File,
    "hsr_request": Request,
    "hsr_result": Result,
    "hsr_named_tensor": NamedTensor,
    "hsr_embeddings": Embeddings,
}


def loaded(file: Path) -> c.CDLL:
    """The library in this process."""
    lib = c.CDLL(str(file))
    lib.hsr_last_error.restype = lib.hsr_status_name.restype = lib.hsr_version.restype = c.c_char_p
    lib.hsr_close.argtypes = lib.hsr_result_free.argtypes = lib.hsr_embeddings_free.argtypes = (c.c_void_p,)
    lib.hsr_open.argtypes = (c.c_char_p, c.POINTER(OpenOptions), c.POINTER(c.c_void_p))
    lib.hsr_describe.argtypes = (c.c_void_p, c.POINTER(c.c_char_p))
    lib.hsr_generate.argtypes = (c.c_void_p, c.POINTER(Request), c.POINTER(c.POINTER(Result)))
    lib.hsr_encode.argtypes = (c.c_void_p, c.POINTER(Request), c.POINTER(c.POINTER(Embeddings)))
    return lib


def request_for(*prompts: bytes, seeds: tuple[int, ...] = (0,), **fields: object) -> Request:
    """A request; ctypes keeps alive what it points at."""
    words = (c.c_char_p * len(prompts))(*prompts) if prompts else None
    numbers = (c.c_uint64 * len(seeds))(*seeds)
    return Request(c.sizeof(Request), words, len(prompts), seeds=numbers, seed_count=len(seeds), **fields)


def file_of(data: bytes) -> File:
    """A file's bytes; ctypes keeps them alive."""
    return File(data, len(data))


def tensor_of(array: np.ndarray) -> Tensor:
    """A view of a C-contiguous float32 array; the caller keeps the array."""
    shape = (c.c_int64 * array.ndim)(*array.shape)
    code, bits = (2, 32) if array.dtype == np.float32 else (2, 64)
    return Tensor(array.ctypes.data, 1, 0, array.ndim, code, bits, 1, shape)


class _Consumed:
    """What np.from_dlpack wants: a capsule over a DLManagedTensor, which numpy takes over."""

    def __init__(self, managed: c.POINTER(Managed)) -> None:
        self._managed = managed

    def __dlpack__(self, **_: object) -> object:
        make = c.pythonapi.PyCapsule_New
        make.restype, make.argtypes = c.py_object, (c.c_void_p, c.c_char_p, c.c_void_p)
        return make(c.cast(self._managed, c.c_void_p), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def taken(managed: c.POINTER(Managed)) -> np.ndarray:
    """The tensor as an array that owns it."""
    return np.from_dlpack(_Consumed(managed))
