"""What goes over the wire: OpenAI's images API, with this project's own fields beside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_PICTURES = 10
LONGEST_PROMPT = 32_000
LARGEST_SEED = 2**53 - 1
"""What JavaScript still counts exactly."""


class ImagesRequest(BaseModel):
    """A request for pictures. What the bundle cannot honour is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)]
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES, description="pictures; picture i has seed + i")] = 1
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="WIDTHxHEIGHT in pixels")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100, description="quality of jpeg and webp")] = 95
    model: Annotated[str | None, Field(description="not looked at: one server has one bundle")] = None
    user: Annotated[str | None, Field(description="not looked at")] = None

    seed: Annotated[int | None, Field(ge=0, le=LARGEST_SEED, description="none: drawn, and told in the answer")] = None
    negative_prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)] = ""
    steps: Annotated[int | None, Field(ge=1, le=10_000, description="of a preset")] = None
    guidance_scale: Annotated[float | None, Field(description="1 or less switches guidance off")] = None
    schedule: Annotated[
        str | None, Field(max_length=2000, description="hybridstitch, large, small, or large:10,hybrid:10,small:8")
    ] = None
    region: Annotated[bool, Field(description="also send each picture with the region marked")] = False


class Picture(BaseModel):
    """One picture."""

    b64_json: str
    seed: int
    region_b64_json: Annotated[str | None, Field(description="PNG; none if the schedule has no region")] = None


class SegmentSeconds(BaseModel):
    """A segment of the schedule, as it ran."""

    mode: str
    steps: int
    seconds: float


class Story(BaseModel):
    """How the pictures came about; of several, the last one's batch."""

    schedule: str
    segments: list[SegmentSeconds]
    waited_seconds: float
    batch: Annotated[int, Field(description="pictures that were drawn together")]
    warnings: list[str]


class ImagesResponse(BaseModel):
    """OpenAI's answer, and the story beside it."""

    created: Annotated[int, Field(description="seconds since 1970")]
    data: list[Picture]
    size: str
    output_format: str
    hsexport: Story


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
