"""What a server can be told; the command line takes its options from here."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0.1)]
Pause = Annotated[float, Meta(ge=0)]
Names = tuple[str, ...]


class ServerOptions(Struct, frozen=True, kw_only=True):
    """How a server draws, how much it takes on, and what callers may do."""

    api_key: Annotated[str | None, Meta(description="what callers must send as a bearer token")] = None
    hosts: Annotated[Names, Meta(description="a name that callers know the server by; '*': any")] = ()
    origins: Annotated[Names, Meta(description="a page elsewhere that browsers may ask from")] = ()
    queue: Annotated[Count, Meta(description="pictures that may wait; more get 429")] = 16
    max_batch: Annotated[
        Count | None, Meta(description="pictures drawn together; default: as built on a GPU, 1 on a CPU")
    ] = None
    gather_ms: Annotated[Pause, Meta(description="how long a batch that is not full waits")] = 5
    timeout: Annotated[Seconds, Meta(description="seconds after which a picture is given up with 504")] = 120
    max_body_kb: Annotated[Count, Meta(description="largest request, KiB")] = 256
    max_upload_kb: Annotated[Count, Meta(description="largest request with pictures as files, KiB")] = 16_384
    header_timeout: Annotated[Seconds, Meta(description="seconds in which each request's headers must come")] = 10
    body_timeout: Annotated[Seconds, Meta(description="seconds in which a request's body must come")] = 10
    max_connections: Annotated[Count, Meta(description="beyond them the longest silent gives way")] = 256
    drain_timeout: Annotated[Pause, Meta(description="seconds to finish what waits after SIGTERM")] = 30
    watch: Annotated[
        Pause, Meta(description="seconds between looks for a new bundle in place of this one; 0: never")
    ] = 2
    warm_up: Annotated[bool, Meta(description="draw one picture before listening")] = True
