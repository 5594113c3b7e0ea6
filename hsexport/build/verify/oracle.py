"""The strong oracle: with the cache taken at the same state, a region's velocity equals the full pass's."""

from __future__ import annotations

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device
from hsexport.build.verify.compare import Comparison, compare, engine_outputs, tolerance_of
from hsruntime.bundle.manifest import Manifest

MOST_TOKENS = 24
MOST_TEXT = 5
SHARES = (0.0, 0.3, 0.7)


def check_oracle(engine: Engine, device: Device, manifest: Manifest, seed: int = 0) -> list[Comparison]:
    """Runs large over a few random tokens, then over random regions of them with the rest as cache.

    Independent of torch and of any golden: it tests that the graph's cache inputs mean what the runtime takes them
    for, on this machine's engine.
    """
    rng = np.random.default_rng(seed)
    whole = _inputs(manifest, rng)
    full = engine_outputs(engine, device, whole)
    tokens = whole["tokens"].shape[1]
    record = manifest.engines["large"]
    results, tolerance = [], tolerance_of(record.precision, record.weight_format)
    for count in sorted({max(1, round(share * tokens)) for share in SHARES}):
        order = rng.permutation(tokens)
        part, expected = _region(whole, full, np.sort(order[:count]), np.sort(order[count:]))
        reference = f"full pass, region of {count} of {tokens}"
        results.append(compare(engine, device, part, expected, reference, tolerance))
        part, expected = _text_cached(manifest, part, full), {n: t for n, t in expected.items() if "_text_" not in n}
        results.append(compare(engine, device, part, expected, f"{reference}, text cached", tolerance))
    return results


def _inputs(manifest: Manifest, rng: np.random.Generator) -> dict[str, np.ndarray]:
    large, table, rows = manifest.facts.large, manifest.facts.large.positions, 2
    places = table.rows * table.columns
    tokens, text = min(MOST_TOKENS, places), min(MOST_TEXT, manifest.facts.text_tokens)
    positions = rng.permutation(places)[:tokens].astype(np.int32)
    inputs = {
        "tokens": rng.standard_normal((rows, tokens, manifest.facts.latent.token_width), np.float32),
        "positions": np.tile(positions, (rows, 1)),
        "step": np.zeros(1, np.int32),
    }
    for spec in manifest.engines["large"].spec.inputs:
        if spec.name not in inputs and not spec.name.startswith("past_"):
            inputs[spec.name] = rng.standard_normal(spec.resolve({"G": rows, "T": text, "S": 1}), np.float32)
    empty = np.zeros((rows, 0, large.heads, large.head_size), np.float32)
    past = {f"past_{which}_{i}": empty for i in range(large.image_slots) for which in "kv"}
    return inputs | past | {f"past_text_{which}_{i}": empty for i in range(large.text_slots) for which in "kv"}


def _region(
    whole: dict[str, np.ndarray], full: dict[str, np.ndarray], active: np.ndarray, cached: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs of the region pass, and what it must answer."""
    part = whole | {name: np.ascontiguousarray(whole[name][:, active]) for name in ("tokens", "positions")}
    expected = {"velocity": full["velocity"][:, active]}
    for name, tensor in full.items():
        if name.startswith("present_text_"):
            expected[name] = tensor
        elif name.startswith("present_"):
            part[name.replace("present", "past")] = np.ascontiguousarray(tensor[:, cached])
            expected[name] = tensor[:, active]
    return part, expected


def _text_cached(manifest: Manifest, part: dict[str, np.ndarray], full: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The region pass with the full pass's keys and values of the text, and no text of its own."""
    kept = {n.replace("present", "past"): np.ascontiguousarray(t) for n, t in full.items() if "present_text_" in n}
    streams = [spec.name for spec in manifest.engines["large"].spec.inputs if spec.shape[1:2] == ("T",)]
    return part | kept | {name: np.ascontiguousarray(part[name][:, :0]) for name in streams}
