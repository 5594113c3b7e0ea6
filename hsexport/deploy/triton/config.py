"""Triton's description of the model: config.pbtxt."""

from __future__ import annotations

from string import Template
from typing import Annotated

from msgspec import Meta, Struct, structs

from hsruntime.bundle.manifest import Manifest
from hsruntime.options import Count, PictureOptions, schemas_of

MARK = "# Written by `hsexport triton`; it will overwrite this folder when asked again.\n"
BUNDLE_FOLDER = "bundle"

_CONFIG = Template("""\
$mark
name: "$name"
backend: "python"
# Pictures at once: what the bundle was built for.
max_batch_size: $max_batch

$inputs
$outputs
# Requests wait this long for company; a client may set its own timeout.
dynamic_batching {
  max_queue_delay_microseconds: $max_queue_delay_us
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: $queue_timeout_us
    allow_timeout_override: true
    max_queue_size: $max_queue_size
  }
}
instance_group [ { count: $instances, $kind } ]
model_transaction_policy { decoupled: $decoupled }

$parameters""")

TYPES = {"string": "TYPE_STRING", "integer": "TYPE_INT32", "number": "TYPE_FP32"}
DIFFERS = {"seed": "TYPE_INT64"}
"""Inputs whose numbers need more bits than others of their kind."""
_OUTPUTS = (
    ("IMAGE", "TYPE_UINT8", "-1, -1, 3"),  # height, width
    ("SCHEDULE_USED", "TYPE_STRING", "1"),
    ("SECONDS", "TYPE_FP32", "1"),
    ("REGION", "TYPE_BOOL", "-1, -1"),  # height and width in tokens
)
_PROGRESS = ("PROGRESS", "TYPE_INT32", "2")  # steps done, steps in all


class TritonOptions(Struct, frozen=True, kw_only=True):
    """What the person who deploys decides; the rest follows from the bundle."""

    max_queue_delay_us: Annotated[Count, Meta(description="microseconds that a request waits for company")] = 10_000
    max_queue_size: Annotated[Count, Meta(description="requests that may wait; 0 for any number")] = 256
    queue_timeout_ms: Annotated[Count, Meta(description="how long they may wait; 0 for ever")] = 0
    instances: Annotated[int, Meta(ge=1, description="sessions side by side, each with its own engines")] = 1
    device: Annotated[str, Meta(description="what to run on, such as CPU or GPU.0, as the server lists them")] = ""
    threads: Annotated[Count, Meta(description="CPU threads of each instance, 0 for all")] = 0
    adapter_folder: Annotated[
        str, Meta(description="folder on the server of LoRAs that requests may ask for by their files' names")
    ] = ""
    progress: Annotated[bool, Meta(description="answer after every step, too; clients must stream")] = False
    execution_env: Annotated[
        str, Meta(description="Python environment with hsexport in it, packed or plain, on the server")
    ] = ""
    """Empty for the backend's own."""


def config_text(name: str, manifest: Manifest, options: TritonOptions) -> str:
    """The file's text."""
    outputs = (*_OUTPUTS, _PROGRESS) if options.progress else _OUTPUTS
    parameters = {"bundle": BUNDLE_FOLDER, "threads": str(options.threads)}
    if options.device:
        parameters["device"] = options.device
    if options.adapter_folder:
        parameters["adapter_folder"] = options.adapter_folder
    if options.execution_env:
        parameters["EXECUTION_ENV_PATH"] = options.execution_env
    return _CONFIG.substitute(
        structs.asdict(options),
        mark=MARK,
        name=name,
        max_batch=manifest.facts.sizes.max_batch,
        inputs="".join(_input(name, schema["type"]) for name, schema in schemas_of(PictureOptions).items()),
        outputs="".join(_output(*row) for row in outputs),
        queue_timeout_us=1000 * options.queue_timeout_ms,
        # hsruntime takes the first GPU that it sees.
        kind="kind: KIND_CPU" if manifest.on_cpu else "kind: KIND_GPU, gpus: [ 0 ]",
        decoupled=str(options.progress).lower(),
        parameters="".join(_parameter(key, value) for key, value in parameters.items()),
    )


def _input(option: str, kind: str) -> str:
    """One row a picture: Triton puts the batch's dimension before these."""
    tail = "" if option == "prompt" else ", optional: true"
    dtype = DIFFERS.get(option, TYPES[kind])
    return f'input [ {{ name: "{option.upper()}", data_type: {dtype}, dims: [ 1 ]{tail} }} ]\n'


def _output(name: str, dtype: str, dims: str) -> str:
    return f'output [ {{ name: "{name}", data_type: {dtype}, dims: [ {dims} ] }} ]\n'


def _parameter(key: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'parameters {{ key: "{key}", value: {{ string_value: "{escaped}" }} }}\n'
