"""Options that several commands take: those of pictures and sessions, made from the records that declare them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from hsexport.cli.command import KINDS, one_of, option_from, with_options
from hsruntime.options import PICTURE_FILES, PictureOptions, SessionOptions, schemas_of
from hsruntime.schedule.presets import PRESETS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def size_from_text(text: str) -> tuple[int, int]:
    """`1024x768` as (width, height). Raises click.BadParameter, which is a usage error."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"'{text}' is not a size; write WIDTHxHEIGHT, for example 1024x768")
    return int(width), int(height)


presets = one_of(lambda: PRESETS)
KERNEL_CACHE = "HSEXPORT_RUNTIME_CACHE"
"""Names the folder where no option does; set but empty, nothing is kept. click itself takes empty for unset."""
LORA = "[small=]FILE[:SCALE]"


class PictureFile(click.Path):
    """A file of which the command gets the bytes; what is in it is the runtime's to check."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The bytes."""
        if isinstance(value, bytes):
            return value
        path = Path(str(super().convert(value, param, ctx)))
        try:
            return path.read_bytes()
        except OSError as err:
            self.fail(f"{path} cannot be read: {err.strerror or err}", param, ctx)


AS_FLAGS: dict[str, dict[str, Any]] = {
    "schedule": {"shell_complete": presets},
    "memory_cap_mb": {"flag": "--memory-cap"},
    "kernel_cache": {"callback": lambda *given: os.environ.get(KERNEL_CACHE) if given[-1] is None else given[-1]},
    "vae_tile": {"metavar": "PIXELS"},
    **{field: {"type": PictureFile(exists=True, dir_okay=False)} for field in PICTURE_FILES},
    "adapters": {"flag": "--lora", "metavar": LORA, "multiple": True, "show_default": False},
    "adapter_cap_mb": {"flag": "--adapter-cap"},
}
"""What a field of the records cannot say of its option."""


def option_of(record: type[Struct], field: str, help: str | None = None, **settings: Any) -> Decorator:
    """The option of one field: type, default and, unless there are other words for it, help are the record's.

    A picture's bounds are the runtime's to check, which tells more than that a number is out of range.
    """
    settings = AS_FLAGS.get(field, {}) | settings
    schema = schemas_of(record)[field] | {"flag": settings.pop("flag", "--" + field.replace("_", "-"))}
    if record is PictureOptions:
        settings.setdefault("type", KINDS[schema["type"]])
    return option_from(field, schema, help=help or schema["description"], **settings)


def record_options(record: type[Struct], options: dict[str, Decorator], into: str) -> Decorator:
    """These options by name, whose values reach the command as one record, by the name `into`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def with_record(**given: Any) -> Any:
            asked = {name: given.pop(name) for name in options}
            if "size" in asked:
                asked["width"], asked["height"] = asked.pop("size") or (None, None)
            return function(**given, **{into: record(**asked)})

        return with_options(with_record, options.values())

    return decorate


def picture_options(*without: str, **helps: str) -> Decorator:
    """All of a picture's options but the prompt and `without`, as `picture`; helps: by field, where other words fit
    better.
    """
    left_out = {"prompt", "width", "height", *without}
    fields = [name for name in PictureOptions.__struct_fields__ if name not in left_out]
    options = {name: option_of(PictureOptions, name, helps.get(name)) for name in fields}
    return record_options(PictureOptions, {**options, "size": size}, "picture")


def session_options(*fields: str) -> Decorator:
    """These of a session's options, as `session`."""
    return record_options(SessionOptions, {name: option_of(SessionOptions, name) for name in fields}, "session")


size = click.option("--size", metavar="WxH", type=size_from_text, help="in pixels, within the bundle's range")
device = option_of(SessionOptions, "device")
threads = option_of(SessionOptions, "threads")
