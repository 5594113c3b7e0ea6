"""`hsexport triton`: works without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.cli.options import option_of, record_options
from hsexport.deploy.triton.config import TritonOptions
from hsexport.deploy.triton.repository import Written, write_repository
from hsruntime.options import schemas_of

OPTIONS = {name: option_of(TritonOptions, name) for name in TritonOptions.__struct_fields__}
OPTIONS["progress"] = click.option(
    "--progress", "--decoupled", is_flag=True, help=schemas_of(TritonOptions)["progress"]["description"]
)
OPTIONS["adapter_folder"] = option_of(TritonOptions, "adapter_folder", metavar="PATH")
OPTIONS["execution_env"] = option_of(TritonOptions, "execution_env", metavar="PATH")


@command()
@bundle_argument()
@click.option("--out", type=FILE, required=True, help="the model repository; made if it is not there")
@click.option("--name", help="the model's name; else the bundle's")
@record_options(TritonOptions, OPTIONS, "options")
@click.option("--link/--copy", default=False, help="hard-link the bundle's files")
@json_option("print what was written for scripts")
def triton(bundle: Path, out: Path, name: str | None, options: TritonOptions, link: bool, as_json: bool) -> None:
    """Write a model repository for NVIDIA Triton."""
    written = write_repository(bundle, out, options, name=name, link=link)
    if as_json:
        click.echo(json.dumps(_summary(written, options)))
        return
    rows, how = written.bundle.manifest.facts.sizes.max_batch, _placement(written) if link else "copied"
    click.echo(
        f"{written.model}: batches of up to {rows}, bundle {how}; serve it: tritonserver --model-repository {out}",
        err=True,
    )


def _placement(written: Written) -> str:
    files = len(written.bundle.manifest.files) + 1
    if written.linked == files:
        return "linked"
    return f"copied, {written.linked} of {files} files linked (the disk allows no more)"


def _summary(written: Written, options: TritonOptions) -> dict[str, Any]:
    return {
        "model": str(written.model),
        "name": written.model.name,
        "max_batch": written.bundle.manifest.facts.sizes.max_batch,
        "progress": options.progress,
        "instances": options.instances,
        "linked_files": written.linked,
    }
