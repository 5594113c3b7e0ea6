"""`hsexport`: commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import sys

import typer

from hsengines.errors import HSError
from hsexport.cli import (
    batch,
    bench,
    build,
    embed,
    inspect,
    interrupts,
    pack,
    plan,
    run,
    serve,
    triton,
    tune,
    verify,
)

OS_HINTS = {
    errno.ENOSPC: "free some space or name another place",
    errno.EDQUOT: "free some space or name another place",
    errno.EACCES: "you may not read or write there; name another place",
    errno.EROFS: "that place is read-only; name another one",
    errno.ENOENT: "it is not there",
}

EXTRAS = {
    **dict.fromkeys(("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir"), "build"),
    **dict.fromkeys(("platformdirs", "safetensors", "huggingface_hub"), "build"),
    **dict.fromkeys(("skimage", "flip_evaluator", "matplotlib", "jinja2", "markupsafe"), "bench"),
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client", "starlette", "pydantic"), "serve"),
    "ray": "ray",
}
"""Modules that the bare install does not bring, and the extra that does."""

app = typer.Typer(
    name="hsexport",
    help="Builds bundles of engines from pairs of diffusion transformers, and makes pictures with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("plan")(plan.plan)
app.command("build")(build.build)
app.command("run")(run.run)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("pack")(pack.pack)
app.command("bench")(bench.bench)
app.command("tune")(tune.tune)
app.command("serve")(serve.serve)
app.command("triton")(triton.triton)
app.command("embed")(embed.embed)
app.command("batch")(batch.batch)


def main() -> None:
    """Exit codes: 0 done, 1 an error the user can mend (one line on stderr), 2 wrong usage, 130 interrupted."""
    interrupts.listen()
    try:
        app()
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
    print(f"hsexport: {message}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
