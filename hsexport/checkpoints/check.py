"""Whether two members belong together; each fault has its own message."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .agreement import check_config_agrees, check_schedulers_agree, check_tensors_agree, check_vaes_agree
from .config import scheduler_config_from, vae_config_from
from .documents import setting_of
from .errors import PairError
from .layout import PART_NAMES
from .member import Member
from .parts import check_parts_whole
from .tokenizer import check_tokenizers_agree

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
WEIGHED_PARTS = ("vae", *TEXT_ENCODERS)
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
# Not the third encoder and its tokenizer: SD3 puts zeros for the T5's tokens where it is left out.
REQUIRED = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SAME_IN_BOTH = {
    "in_channels": ("latent channels", "a pair shares one latent space: take both members from one model family"),
    "patch_size": ("patch size", "a token must be the same patch to both: take members with one patch size"),
    "joint_attention_dim": ("text width (joint_attention_dim)", "both must read the same text encoders' output"),
    "pooled_projection_dim": ("pooled text width (pooled_projection_dim)", "both must read the same text encoders"),
}


def check_pair(large: Member, small: Member, without: Collection[str] = ()) -> None:
    """Raises PairError for the first thing that keeps the two apart, as far as configurations and headers tell.

    Of the parts in `without` only configurations are looked at.
    """
    check_parts_present(large, small)
    check_transformers_agree(large, small)
    check_order(large, small)
    check_parts_fit(large, shared_parts(large, small))
    for member in (large, small):
        check_parts_whole({name: part for name, part in member.directory.parts.items() if name not in without})
    check_parts_agree(large, small, without)


def shared_parts(large: Member, small: Member) -> dict[str, Path]:
    """Every part that either member has; large's where both do."""
    parts = {**small.directory.parts, **large.directory.parts}
    return {name: parts[name] for name in PART_NAMES if name in parts}


def check_parts_present(large: Member, small: Member) -> None:
    """Refuses a pair without a VAE, its text side or a scheduler."""
    parts = shared_parts(large, small)
    missing = [name for name in REQUIRED if name not in parts]
    if "text_encoder_3" in parts and "tokenizer_3" not in parts:
        missing.append("tokenizer_3")
    if missing:
        alone = any(member.directory.transformer.is_file() for member in (large, small))
        raise PairError(
            f"neither {large} nor {small} has {', '.join(missing)}",
            "one of them must be a whole pipeline (a directory with model_index.json)"
            + ("; of a single file the transformer alone is taken" if alone else ""),
        )


def check_transformers_agree(large: Member, small: Member) -> None:
    """Refuses transformers that read different latents, tokens or text."""
    for field, (noun, remedy) in SAME_IN_BOTH.items():
        ours, theirs = getattr(large.config, field), getattr(small.config, field)
        if ours != theirs:
            raise PairError(f"{large} and {small} differ in {noun}: {ours} and {theirs}", remedy)


def check_order(large: Member, small: Member) -> None:
    """Refuses a large member smaller than the small one; one model in both places is allowed."""
    if large.parameters < small.parameters:
        raise PairError(
            f"{large} has {large.parameters:,} parameters, fewer than {small} with {small.parameters:,}",
            f"swap them: --large {small.source} --small {large.source}",
        )


def check_parts_fit(large: Member, parts: dict[str, Path]) -> None:
    """Refuses a VAE, scheduler or text encoders that the transformers cannot work with."""
    scheduler_config_from(parts["scheduler"])
    channels = vae_config_from(parts["vae"]).latent_channels
    if channels != large.config.in_channels:
        raise PairError(
            f"the VAE in {parts['vae']} has {channels} latent_channels, {large} has in_channels "
            f"{large.config.in_channels}; expected the same",
            "use the VAE the transformers were trained with",
        )
    pooled = sum(setting_of(parts[name], "projection_dim") for name in TEXT_ENCODERS[:2])
    check_width(large, "pooled_projection_dim", pooled, "projection_dim of text_encoder and text_encoder_2 together")
    if "text_encoder_3" in parts:
        width = setting_of(parts["text_encoder_3"], "d_model")
        check_width(large, "joint_attention_dim", width, "d_model of text_encoder_3")


def check_width(member: Member, field: str, found: int, what: str) -> None:
    """Refuses a text width that is not the transformer's."""
    expected = getattr(member.config, field)
    if found != expected:
        raise PairError(
            f"{what} is {found}, {member} has {field} {expected}; expected the same",
            "use the text encoders the transformers were trained with",
        )


def parts_of_both(large: Member, small: Member) -> dict[str, tuple[Path, Path]]:
    """The parts that lie in two places, large's and small's."""
    ours, theirs = large.directory.parts, small.directory.parts
    both = {name: (ours[name], theirs[name]) for name in PART_NAMES if name in ours and name in theirs}
    return {name: paths for name, paths in both.items() if not paths[0].samefile(paths[1])}


def check_parts_agree(large: Member, small: Member, without: Collection[str] = ()) -> None:
    """Compares each part that both members bring: configurations first, then headers."""
    both = parts_of_both(large, small)
    if "scheduler" in both:
        check_schedulers_agree(*both["scheduler"])
    if "vae" in both:
        check_vaes_agree(*both["vae"])
    for name in filter(both.__contains__, TOKENIZERS):
        check_tokenizers_agree(name, *both[name])
    for name in filter(both.__contains__, TEXT_ENCODERS):
        check_config_agrees(name, *both[name])
    for name in filter(both.__contains__, WEIGHED_PARTS):
        if name not in without:
            check_tensors_agree(name, *both[name])
