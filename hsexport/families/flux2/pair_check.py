"""Whether two FLUX.2 members belong together; each fault has its own message."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.tokenizers import check_tokenizer_there
from hsexport.families.agreement import ONE_FAMILY, check_settings_agree, check_tensors_agree
from hsexport.families.flux2.parts import (
    PATCH,
    TAKEN,
    EncoderConfig,
    Parts,
    check_encoder_whole,
    check_vae_whole,
    encoder_config_from,
    levels_from,
    vae_config_from,
)
from hsexport.families.pair import Member, parts_of_both, shared_parts

OWN = ("text_encoder", "tokenizer")
"""Parts that a member may bring for itself."""


def text_of(member: Member) -> str:
    """The text side that a member reads: small's own where it brings an encoder, else large's."""
    return "small_text" if member.role == "small" and OWN[0] in member.directory.parts else "text"


def check_pair(large: Member, small: Member | None, without: Collection[str]) -> Parts:
    """What the two share and what each has of its own, as read. Raises PairError for what keeps them apart.

    As far as configurations and headers tell; of the parts in `without` only configurations are looked at.
    """
    members = [large, small] if small else [large]
    parts = shared_parts(large, small)
    _check_parts_present(large, members, parts)
    if small:
        _check_members_agree(large, small)
    vae = vae_config_from(parts["vae"])
    if (numbers := PATCH * PATCH * vae.latent_channels) != large.config.in_channels:
        raise PairError(
            f"the VAE in {parts['vae']} has {vae.latent_channels} latent_channels, {numbers} numbers in a token, "
            f"{large} has in_channels {large.config.in_channels}; expected the same",
            "use the VAE the transformers were trained with",
        )
    read = Parts(vae, levels_from(parts["scheduler"]), dict(_encoders(members)))
    if "vae" not in without:
        check_vae_whole(parts["vae"])
    for side, encoder in read.encoders.items():
        if OWN[0] not in without:
            check_encoder_whole(encoder)
        check_tokenizer_there(encoder.tokenizer)
        _check_widths([member for member in members if text_of(member) == side], encoder)
    _check_shared_agree(read, parts_of_both(large, small), without)
    return read


def _check_parts_present(large: Member, members: list[Member], parts: Mapping[str, Path]) -> None:
    missing = [name for name in ("vae", "scheduler") if name not in parts]
    missing += [name for name in OWN if name not in large.directory.parts]
    if missing:
        raise PairError(
            f"{' and '.join(map(str, members))} lack {', '.join(missing)}",
            "large must be a whole pipeline (a directory with model_index.json); of a single file the transformer "
            "alone is taken",
        )
    for member in members:
        there = [name for name in OWN if name in member.directory.parts]
        if len(there) == 1:
            raise PairError(f"{member} has a {there[0]} without the other of {' and '.join(OWN)}", "save it again")


def _check_members_agree(large: Member, small: Member) -> None:
    """Refuses transformers that read different latents, and a large one that is the smaller."""
    if large.config.in_channels != small.config.in_channels:
        raise PairError(
            f"{large} and {small} differ in latent channels: {large.config.in_channels} and {small.config.in_channels}",
            f"a pair shares one latent space: {ONE_FAMILY}",
        )
    if large.parameters < small.parameters:
        raise PairError(
            f"{large} has {large.parameters:,} parameters, fewer than {small} with {small.parameters:,}",
            f"swap them: --large {small.source} --small {large.source}",
        )


def _encoders(members: list[Member]) -> Iterator[tuple[str, EncoderConfig]]:
    for member in members:
        if OWN[0] in member.directory.parts:
            yield text_of(member), encoder_config_from(*(member.directory.parts[name] for name in OWN))


def _check_widths(readers: list[Member], encoder: EncoderConfig) -> None:
    width = len(TAKEN) * encoder.shape.hidden_size
    for member in readers:
        if member.config.joint_attention_dim != width:
            raise PairError(
                f"{encoder.folder} answers {width} numbers a token, {member} has joint_attention_dim "
                f"{member.config.joint_attention_dim}; expected the same",
                "give the whole pipeline, whose own text encoder fits",
            )


def _check_shared_agree(read: Parts, both: Mapping[str, tuple[Path, Path]], without: Collection[str]) -> None:
    if "scheduler" in both and levels_from(both["scheduler"][1]) != read.levels:
        raise PairError("the schedulers of large and small differ in num_train_timesteps", ONE_FAMILY)
    if "vae" in both:
        theirs = vae_config_from(both["vae"][1])
        hint = f"a pair shares one latent space: {ONE_FAMILY}"
        check_settings_agree("the VAEs", read.vae.compared, theirs.compared, hint)
        if "vae" not in without:
            check_tensors_agree("vae", *both["vae"])
