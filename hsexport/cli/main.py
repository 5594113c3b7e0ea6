"""`hsexport`: commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from hsengines.errors import HSError, as_text
from hsexport import __version__, interrupts

COMMANDS = {
    "plan": "Tell what a build and its pictures will need, without loading anything: disk, memory, operations, time.",
    "build": "Build a bundle from a pair: load, export, optimise, compile, verify, pack.",
    "calibrate": "Measure what products read while an fp32 bundle for ort-cpu draws: ranges for activations in 8 bits.",
    "run": "Make pictures from a bundle.",
    "inspect": "Show what a bundle holds and what was measured when it was built.",
    "verify": "Check a bundle: every byte, every engine against torch or its golden, and the region against the full "
    "pass.",
    "pack": "Pack a bundle into one archive to copy; with --runtime, with all that runs it on a machine without a "
    "network.",
    "bench": "Measure schedules side by side: speed, distance to large's own pictures, fidelity; writes a report.",
    "tune": "Find the bundle's best schedule under one constraint, by counting first and measuring what that leaves.",
    "serve": "Answer OpenAI's images API over HTTP, with a page to try it, health and metrics.",
    "triton": "Write a model repository for NVIDIA Triton.",
    "embed": "Tell where the C library is, for programs in C and C++.",
    "batch": "Draw every prompt of a file; the same command goes on after whatever stopped it.",
}
"""Each command's file in this folder, and the first line of its help, told without importing it."""

OS_HINTS = {
    errno.ENOSPC: "free some space or name another place",
    errno.EDQUOT: "free some space or name another place",
    errno.EACCES: "you may not read or write there; name another place",
    errno.EROFS: "that place is read-only; name another one",
    errno.ENOENT: "it is not there",
}

EXTRAS = {
    **dict.fromkeys(("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir"), "build"),
    **dict.fromkeys(("platformdirs", "safetensors", "huggingface_hub", "polygraphy"), "build"),
    **dict.fromkeys(("skimage", "flip_evaluator", "matplotlib", "jinja2", "markupsafe"), "bench"),
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client", "starlette", "pydantic"), "serve"),
    "python_multipart": "serve",
    "ray": "ray",
}
"""Modules that the bare install does not bring, and the extra that does."""


class Commands(click.Group):
    """Imports a command's file when the command is called, and not to list it."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command itself in place of the line that stands for it."""
        name, line, rest = super().resolve_command(ctx, args)
        return name, line and getattr(import_module(f"hsexport.cli.{name}"), str(name)), rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of COMMANDS."""
        del ctx
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each line whole, where click would cut it short."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Interrupted, 130, where click would exit with 1; what there is to say the command has said."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(
    cls=Commands,
    commands={name: click.Command(name, help=line) for name, line in COMMANDS.items()},
    subcommand_metavar="COMMAND [ARGS]...",
    invoke_without_command=True,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="hsexport")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Builds bundles of engines from pairs of diffusion transformers, and makes pictures with them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(2)


def main() -> None:
    """Exit codes: 0 done, 1 an error the user can mend (one line on stderr), 2 wrong usage, 130 interrupted."""
    interrupts.listen()
    if sys.stdout is None:  # closed by the shell: nobody reads what is printed
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        app(prog_name="hsexport")
    except HSError as err:
        _fail(str(err))
    except OSError as err:
        if err.errno is None:
            raise
        where = f" ({err.filename})" if err.filename else ""
        _fail(f"{err.strerror}{where}; {OS_HINTS.get(err.errno, 'look at that path')}")
    except ModuleNotFoundError as err:
        extra = EXTRAS.get((err.name or "").split(".")[0])
        if extra is None:
            raise
        _fail(f"this needs the module '{err.name}', which is missing; pip install 'hsexport[{extra}]'")


def _fail(message: str) -> None:
    print(f"hsexport: {as_text(message)}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
