"""Whether two SD3 members belong together; each fault has its own message."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.tokenizers import check_tokenizers_agree
from hsexport.families.agreement import ONE_FAMILY, check_documents_agree, check_settings_agree, check_tensors_agree
from hsexport.families.pair import Member, parts_of_both, shared_parts
from hsexport.families.sd3.parts import (
    TEXT_ENCODERS,
    EncoderConfig,
    Read,
    SchedulerConfig,
    VaeConfig,
    check_parts_whole,
    read_parts,
)

REQUIRED = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SAME_IN_BOTH = {
    "in_channels": ("latent channels", "a pair shares one latent space: take both members from one model family"),
    "patch_size": ("patch size", "a token must be the same patch to both: take members with one patch size"),
    "joint_attention_dim": ("text width (joint_attention_dim)", "both must read the same text encoders' output"),
    "pooled_projection_dim": ("pooled text width (pooled_projection_dim)", "both must read the same text encoders"),
}


def check_pair(large: Member, small: Member | None, without: Collection[str]) -> dict[str, Read]:
    """What the two share, as read, or what large has alone. Raises PairError for the first thing that keeps them apart.

    As far as configurations and headers tell; of the parts in `without` only configurations are looked at.
    """
    check_parts_present(large, small)
    if small:
        check_transformers_agree(large, small)
        check_order(large, small)
    folders = large.directory.parts, small.directory.parts if small else {}
    ours, theirs = read_parts(folders[0]), read_parts(folders[1])
    read = {**theirs, **ours}
    check_parts_fit(large, read, shared_parts(large, small))
    for member, parts in zip(folders, (ours, theirs), strict=True):
        check_parts_whole(member, parts, without)
    check_parts_agree(parts_of_both(large, small), ours, theirs, without)
    return read


def check_parts_present(large: Member, small: Member | None) -> None:
    """Refuses a pair without a VAE, its text side or a scheduler."""
    parts = shared_parts(large, small)
    missing = [name for name in REQUIRED if name not in parts]
    if "text_encoder_3" in parts and "tokenizer_3" not in parts:
        missing.append("tokenizer_3")
    if missing:
        members = [large, small] if small else [large]
        alone = any(member.directory.transformer.is_file() for member in members)
        raise PairError(
            f"{f'neither {large} nor {small}' if small else f'{large} alone'} has {'' if small else 'no '}"
            f"{', '.join(missing)}",
            f"{'one of them' if small else 'it'} must be a whole pipeline (a directory with model_index.json)"
            + ("; of a single file the transformer alone is taken" if alone else ""),
        )


def check_transformers_agree(large: Member, small: Member) -> None:
    """Refuses transformers that read different latents, tokens or text."""
    for field, (noun, hint) in SAME_IN_BOTH.items():
        ours, theirs = getattr(large.config, field), getattr(small.config, field)
        if ours != theirs:
            raise PairError(f"{large} and {small} differ in {noun}: {ours} and {theirs}", hint)


def check_order(large: Member, small: Member) -> None:
    """Refuses a large member smaller than the small one; one model in both places is allowed."""
    if large.parameters < small.parameters:
        raise PairError(
            f"{large} has {large.parameters:,} parameters, fewer than {small} with {small.parameters:,}",
            f"swap them: --large {small.source} --small {large.source}",
        )


def check_parts_fit(large: Member, read: Mapping[str, Read], folders: Mapping[str, Path]) -> None:
    """Refuses a VAE or text encoders that the transformers cannot work with."""
    vae = read["vae"]
    assert isinstance(vae, VaeConfig)
    if vae.latent_channels != large.config.in_channels:
        raise PairError(
            f"the VAE in {folders['vae']} has {vae.latent_channels} latent_channels, {large} has in_channels "
            f"{large.config.in_channels}; expected the same",
            "use the VAE the transformers were trained with",
        )
    encoders = {name: each for name, each in read.items() if isinstance(each, EncoderConfig)}
    pooled = sum(encoder.projection for encoder in encoders.values())
    check_width(large, "pooled_projection_dim", pooled, "projection_dim of text_encoder and text_encoder_2 together")
    if "text_encoder_3" in encoders:
        width = encoders["text_encoder_3"].hidden
        check_width(large, "joint_attention_dim", width, "d_model of text_encoder_3")


def check_width(member: Member, field: str, found: int, what: str) -> None:
    """Refuses a text width that is not the transformer's."""
    expected = getattr(member.config, field)
    if found != expected:
        raise PairError(
            f"{what} is {found}, {member} has {field} {expected}; expected the same",
            "use the text encoders the transformers were trained with",
        )


def check_parts_agree(
    both: Mapping[str, tuple[Path, Path]],
    ours: Mapping[str, Read],
    theirs: Mapping[str, Read],
    without: Collection[str],
) -> None:
    """Compares each part that both members bring: configurations first, then headers."""
    for name, (large, small) in both.items():
        if name not in ours:
            check_tokenizers_agree(name, large, small)
        else:
            check_configs_agree(name, ours[name], theirs[name], small)
    for name in ("vae", *TEXT_ENCODERS):
        if name in both and name not in without:
            check_tensors_agree(name, *both[name])


def check_configs_agree(name: str, ours: Read, theirs: Read, small: Path) -> None:
    """Refuses two schedules, two latent spaces, or text encoders of different configuration."""
    if isinstance(ours, EncoderConfig) and isinstance(theirs, EncoderConfig):
        check_documents_agree(name, ours.document, theirs.document)
    elif isinstance(ours, VaeConfig) and isinstance(theirs, VaeConfig):
        hint = f"a pair shares one latent space: {ONE_FAMILY}"
        check_settings_agree("the VAEs", ours.compared, theirs.compared, hint)
    elif isinstance(ours, SchedulerConfig) and isinstance(theirs, SchedulerConfig):
        hint = "both must step along the same sigmas; if one value serves both, write it into "
        check_settings_agree("the schedulers", asdict(ours), asdict(theirs), f"{hint}{small}/scheduler_config.json")
