"""Which part of a model lies where: in diffusers' directories, or all of a transformer in one file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import PairError, read_document


@dataclass(frozen=True)
class ModelDirectory:
    """A whole pipeline, or a transformer with whichever other parts lie beside it, often none.

    `transformer` is a folder of config.json and weights, or a single-file checkpoint, which stands alone.
    """

    root: Path
    transformer: Path
    parts: Mapping[str, Path]


def find_model(root: Path, known: Collection[str]) -> ModelDirectory:
    """The parts in `root`: by model_index.json where there is one, else a transformer in it or under it.

    `known` are the parts' names. A file is a transformer alone, whatever lies beside it.
    """
    if root.is_file():
        return ModelDirectory(root.parent, root, {})
    if (root / "model_index.json").is_file():
        return pipeline_directory(root, known)
    if (root / "transformer" / "config.json").is_file():
        parts = {name: root / name for name in known if (root / name).is_dir()}
        return ModelDirectory(root, root / "transformer", parts)
    if (root / "config.json").is_file() and "_class_name" in read_document(root / "config.json"):
        return ModelDirectory(root, root, {})
    raise PairError(
        f"{root} holds no model: found neither model_index.json nor transformer/config.json "
        "nor a config.json with a _class_name",
        hint_for(root),
    )


def hint_for(root: Path) -> str:
    """What to give instead of a directory without a model."""
    files = sorted(root.glob("*.safetensors"))
    single = f", or a single-file checkpoint: {files[0]}" if files else ""
    return f"give a directory that diffusers' save_pretrained wrote{single}"


def pipeline_directory(root: Path, known: Collection[str]) -> ModelDirectory:
    """The parts that model_index.json lists; null means left out by design."""
    index = read_document(root / "model_index.json")
    if not is_listed(index, "transformer"):
        raise PairError(
            f"{root} is a {index.get('_class_name', 'pipeline')} without a transformer", "give a pipeline that has one"
        )
    listed = [name for name in ("transformer", *known) if is_listed(index, name)]
    absent = [name for name in listed if not (root / name).is_dir()]
    if absent:
        raise PairError(
            f"{root}/model_index.json lists {', '.join(absent)}, but the directory has no such folder",
            "download or save the pipeline again",
        )
    return ModelDirectory(root, root / "transformer", {name: root / name for name in listed[1:]})


def is_listed(index: Mapping[str, Any], name: str) -> bool:
    """Whether model_index.json names a class for `name`: absent, null and [null, null] all say no."""
    entry = index.get(name)
    return isinstance(entry, list) and any(entry)
