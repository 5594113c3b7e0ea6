"""What goes over the wire: OpenAI's images API, with this project's own fields beside it."""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode
from typing import Annotated, Any, Literal, Self

from msgspec import structs
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, create_model, model_validator

from hsexport.deploy.serve.masks import mask_from_openai
from hsruntime.options import PICTURE_FILES, PictureOptions, schemas_of
from hsruntime.request import SegmentTime

MOST_PICTURES = 10
LONGEST_PROMPT = 32_000
DIFFERS: dict[str, dict[str, Any]] = {
    "prompt": {"default": ..., "maxLength": LONGEST_PROMPT},
    **{name: {"maxLength": LONGEST_PROMPT} for name in ("prompt_2", "prompt_3", "negative_prompt")},
    "schedule": {"maxLength": 2000},
    "lora": {"maxLength": 1000},
    "seed": {
        "default": None,
        "description": "none: drawn, and told in the answer",
        "maximum": 2**53 - 1,  # what JavaScript still counts exactly
    },
}
"""What of an option's JSON schema is otherwise here."""
ABSENT = ("width", "height")
"""Options that are asked for by another name: OpenAI has `size`."""
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}
SCHEMAS = schemas_of(PictureOptions)


def _file_from_base64(given: Any) -> bytes:
    """A form's part has its bytes already."""
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str):
        raise ValueError("expected a file in base64")
    try:
        return b64decode(given, validate=True)
    except (binascii.Error, ValueError) as err:
        raise ValueError(f"no base64: {err}") from err


_File = Annotated[
    bytes,
    PlainValidator(_file_from_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


def _fields() -> dict[str, Any]:
    """Pydantic's, of the options that are asked for by their own names."""
    found = {}
    for name, schema in SCHEMAS.items():
        if name in ABSENT:
            continue
        told = schema | DIFFERS.get(name, {})
        limits: dict[str, Any] = {
            "ge": told.get("minimum"),
            "le": told.get("maximum"),
            "max_length": told.get("maxLength"),
        }
        kind: Any = _File if name in PICTURE_FILES else _TYPES[told["type"]]
        kind = kind | None if told["default"] is None else kind
        found[name] = (Annotated[kind, Field(description=told["description"], **limits)], told["default"])
    return found


_Options: Any = create_model("_Options", **_fields())


class ImagesRequest(_Options):
    """A request for pictures. What the bundle cannot honour is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n: Annotated[int, Field(ge=1, le=MOST_PICTURES, description="pictures; picture i has seed + i")] = 1
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="WIDTHxHEIGHT in pixels")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100, description="quality of jpeg and webp")] = 95
    quality: Annotated[Literal["auto", "standard"], Field(description="no other is offered")] = "auto"
    background: Annotated[Literal["auto", "opaque"], Field(description="no other is offered")] = "auto"
    moderation: Annotated[Literal["auto", "low"], Field(description="not looked at")] = "auto"
    stream: Annotated[Literal[False], Field(description="whole pictures only")] = False
    partial_images: Annotated[Literal[0], Field(description="whole pictures only")] = 0
    model: Annotated[str | None, Field(description="not looked at: one server has one bundle")] = None
    user: Annotated[str | None, Field(description="not looked at")] = None
    region: Annotated[bool, Field(description="also send each picture with the region marked")] = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """OpenAI's clients write null for what is left to the server."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name == "prompt"}

    @model_validator(mode="after")
    def _seeds_can_be_asked_for(self) -> Self:
        if self.seed is not None and self.seed + self.n - 1 > DIFFERS["seed"]["maximum"]:
            raise ValueError(f"seed {self.seed} and the {self.n - 1} after it go beyond {DIFFERS['seed']['maximum']}")
        return self

    def pictures(self) -> list[PictureOptions]:
        """What is asked for of each picture; seeds that are not given are drawn."""
        shared = {name: getattr(self, name) for name in _Options.model_fields}
        first = secrets.randbelow(2**31) if shared.pop("seed") is None else self.seed
        width, height = (None, None) if self.size == "auto" else map(int, self.size.split("x"))
        return [PictureOptions(**shared, seed=first + i, width=width, height=height) for i in range(self.n)]


class EditsRequest(ImagesRequest):
    """The same as a form, with a picture to begin from."""

    image: Annotated[_File, Field(description=SCHEMAS["image"]["description"])]
    mask: Annotated[
        _File | None, Field(description=f"{SCHEMAS['mask']['description']}; or, as OpenAI has it, transparent there")
    ] = None
    input_fidelity: Annotated[Literal["low"], Field(description="no other is offered; see strength")] = "low"

    def pictures(self) -> list[PictureOptions]:
        """With OpenAI's mask as ours; a picture is unpacked for that."""
        orders = super().pictures()
        mask = None if self.mask is None else mask_from_openai(self.mask)
        return [structs.replace(order, mask=mask) for order in orders]


def form_schema() -> dict[str, Any]:
    """JSON schema of `EditsRequest` as a form, where files are parts."""
    schema = EditsRequest.model_json_schema()
    for name in PICTURE_FILES:
        told = schema["properties"][name]["description"]
        schema["properties"][name] = {"type": "string", "format": "binary", "description": told}
    return schema


class Picture(BaseModel):
    """One picture."""

    b64_json: str
    seed: int
    region_b64_json: Annotated[str | None, Field(description="PNG; none if the schedule has no region")] = None


class Provenance(BaseModel):
    """How the pictures came about; of several, the last one's batch."""

    schedule: str
    segments: list[SegmentTime]
    waited_seconds: float
    batch: Annotated[int, Field(description="pictures that were drawn together")]
    adapters: Annotated[list[str], Field(description="that were at work")]
    warnings: list[str]


class ImagesResponse(BaseModel):
    """OpenAI's answer, and the pictures' provenance beside it."""

    created: Annotated[int, Field(description="seconds since 1970")]
    data: list[Picture]
    size: str
    output_format: str
    hsexport: Provenance


class ErrorBody(BaseModel):
    """What went wrong, in one line."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorBody


class BundleFacts(BaseModel):
    """What a caller may ask this server for."""

    identity: Annotated[str, Field(description="of the bundle at work")]
    backend: str
    precision: str
    default_size: Annotated[str, Field(description="WIDTHxHEIGHT in pixels")]
    smallest_size: str
    largest_size: str
    multiple: Annotated[int, Field(description="of which width and height must be multiples")]
    schedule: str
    steps: int
    guidance_scale: float
    presets: list[str]
    adapters: Annotated[list[str], Field(description="what lora may name")]


class Health(BaseModel):
    """One word."""

    status: str


class Model(BaseModel):
    """OpenAI's entry of a list of models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "hsexport"


class Models(BaseModel):
    """The one bundle."""

    object: Literal["list"] = "list"
    data: list[Model]
