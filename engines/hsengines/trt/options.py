"""What TensorRT's builders can be told; needs neither of the two libraries."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from msgspec import Meta
from msgspec.structs import replace

from hsengines.build import BuildOptions


class RtxOptions(BuildOptions, frozen=True, kw_only=True):
    """TensorRT-RTX's options, all of which TensorRT has as well."""

    architectures: Annotated[
        tuple[int, ...],
        Meta(
            description="compute capability to build for, 89 or 120; repeat it for several",
            extra_json_schema={"flag": "--arch"},
        ),
    ] = ()
    """Empty: every one that the builder has, or the GPU that is there."""
    weight_streaming: Annotated[bool, Meta(description="engines larger than the GPU's memory")] = False
    workspace_mb: Annotated[
        int | None, Meta(description="scratch memory in MiB", extra_json_schema={"flag": "--workspace"})
    ] = None
    aux_streams: Annotated[int, Meta(description="streams an engine may use beside its own")] = 0
    refit: Annotated[bool, Meta(description="networks whose weights LoRAs may change at run time")] = False
    """Their weights lie in the bundle twice, and what is folded from weights is not."""

    reasons: ClassVar[dict[str, str]] = {
        "fp32": "it has no attention kernels for fp32",
        "stripped": "it strips plans on a machine with a GPU only, for refitting compiles kernels",
        "version_compatible": "its engines serve the version that built them",
        "hardware": "its engines serve the architectures that --arch names",
    }

    @property
    def streams_weights(self) -> bool:
        """If it was asked for."""
        return self.weight_streaming

    @property
    def takes_weights(self) -> bool:
        """If it was asked for."""
        return self.refit

    def of_fixed_weights(self) -> Self:
        """Without refitting, which keeps the builder from folding."""
        return replace(self, refit=False)

    @property
    def limits(self) -> dict[str, str]:
        """What memory and streams engines may take, and whether they take weights, as facts of the build key."""
        return {
            "weight streaming": str(self.weight_streaming),
            "workspace": "none" if self.workspace_mb is None else f"{self.workspace_mb} MiB",
            "auxiliary streams": str(self.aux_streams),
            **({"refit": "True"} if self.refit else {}),
        }


class TensorRtOptions(RtxOptions, frozen=True, kw_only=True):
    """TensorRT's options."""

    hardware: Annotated[
        str, Meta(description="GPUs to run on", extra_json_schema={"enum": ["same", "capability", "ampere"]})
    ] = "same"
    """The "same" GPU model, any GPU of its compute "capability", or any of "ampere" and later."""
    version_compatible: Annotated[bool, Meta(description="for later versions, too")] = False
    stripped: Annotated[
        bool, Meta(description="plans without weights, put back on loading", extra_json_schema={"flag": "--strip"})
    ] = False
    """They are put back from the graph's own file."""

    reasons: ClassVar[dict[str, str]] = {}

    @property
    def leaves_weights(self) -> bool:
        """If plans are stripped."""
        return self.stripped
