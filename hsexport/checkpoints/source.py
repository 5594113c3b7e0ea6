"""Where a member of the pair comes from (the demo, a local path, the Hugging Face hub), and which part lies where."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import PairError, read_document
from hsexport.checkpoints.hub import DOWNLOADS, Fetcher, fetched
from hsruntime.adapters.changeable import Role

DEMO = Path(__file__).parent.parent / "demo"  # ships inside the package
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_source(
    source: str,
    role: Role,
    parts: Collection[str] = (),
    without: Collection[str] = (),
    fetcher: Fetcher = DOWNLOADS,
) -> Path:
    """The directory or single file behind `source`.

    Of a hub id the transformer and `parts` are fetched, but for weights of parts in `without`.
    """
    if source == "demo":
        if not (DEMO / role).is_dir():
            raise PairError(
                f"the demo pair is not in this installation: {DEMO / role} does not exist",
                "reinstall hsexport from its wheel, or train the pair: scripts/train_demo_pair",
            )
        return DEMO / role
    if is_local(source):
        return Path(source).expanduser()
    if HUB_ID.fullmatch(source):
        return fetched(source, role, parts, without, fetcher)
    raise PairError(
        f"{role} '{source}' is neither a directory, a file, a hub id (org/name), nor 'demo'",
        f"check the path given to --{role}",
    )


def is_local(source: str) -> bool:
    """Whether `source` is a path on this machine: it wins over a hub id of the same name."""
    local = Path(source).expanduser()
    return source not in ("", "demo") and (local.is_dir() or local.is_file())  # Path("") is the current directory


@dataclass(frozen=True)
class ModelDirectory:
    """A whole pipeline, or a transformer with whichever other parts lie beside it, often none."""

    transformer: Path
    """A folder of config.json and weights, or a single-file checkpoint, which stands alone."""
    parts: Mapping[str, Path]


def find_model(root: Path, known: Collection[str]) -> ModelDirectory:
    """The parts in `root`: by model_index.json where there is one, else a transformer in it or under it.

    `known` are the parts' names. A file is a transformer alone, whatever lies beside it.
    """
    if root.is_file():
        return ModelDirectory(root, {})
    if (root / "model_index.json").is_file():
        return pipeline_directory(root, known)
    if (root / "transformer" / "config.json").is_file():
        parts = {name: root / name for name in known if (root / name).is_dir()}
        return ModelDirectory(root / "transformer", parts)
    if (root / "config.json").is_file() and "_class_name" in read_document(root / "config.json"):
        return ModelDirectory(root, {})
    files = sorted(root.glob("*.safetensors"))
    single = f", or a single-file checkpoint: {files[0]}" if files else ""
    raise PairError(
        f"{root} holds no model: found neither model_index.json nor transformer/config.json "
        "nor a config.json with a _class_name",
        f"give a directory that diffusers' save_pretrained wrote{single}",
    )


def pipeline_directory(root: Path, known: Collection[str]) -> ModelDirectory:
    """The parts that model_index.json lists; null means left out by design."""
    index = read_document(root / "model_index.json")
    if not is_listed(index, "transformer"):
        found = index.get("_class_name", "pipeline")
        raise PairError(f"{root} is a {found} without a transformer", "give a pipeline that has one")
    listed = [name for name in ("transformer", *known) if is_listed(index, name)]
    absent = [name for name in listed if not (root / name).is_dir()]
    if absent:
        raise PairError(
            f"{root}/model_index.json lists {', '.join(absent)}, but the directory has no such folder",
            "download or save the pipeline again",
        )
    return ModelDirectory(root / "transformer", {name: root / name for name in listed[1:]})


def is_listed(index: Mapping[str, Any], name: str) -> bool:
    """Whether model_index.json names a class for `name`: absent, null and [null, null] all say no."""
    entry = index.get(name)
    return isinstance(entry, list) and any(entry)
