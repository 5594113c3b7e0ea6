"""The HTTP server as a Ray Serve application: replicas, each with a session of its own, behind one address.

Annotations are evaluated here, not kept as text: Ray reads the builder's to check what it is given.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from hsexport.deploy.ray.executor import gpus_of_each, threads_of_each
from hsexport.deploy.serve.app import make_app
from hsexport.deploy.serve.options import ServerOptions
from hsexport.deploy.serve.service import Service
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import SessionOptions


class DeploymentOptions(BaseModel):
    """What `serve run` takes as NAME=VALUE, and a Serve config file under `args`."""

    model_config = ConfigDict(extra="forbid")

    bundle: Path
    replicas: int = Field(1, ge=1)
    gpus_per_replica: float | None = Field(None, ge=0)
    """None: 1, or 0 for a bundle that runs on CPUs."""
    queue: int = Field(16, ge=1)
    """Pictures that may wait in one replica; more get 429."""
    max_batch: int | None = Field(None, ge=1)
    timeout: float = Field(120, gt=0)
    device: str = ""
    """Of each replica, such as CPU or GPU.0; empty for the backend's first."""
    threads: int = Field(0, ge=0)
    """CPU threads of each replica; 0 shares the cores of its machine out."""
    adapter_folder: str | None = None
    """Of LoRAs that requests may ask for by their files' names; at the same path on every machine."""
    api_key: str | None = Field(None, min_length=1)
    allowed_hosts: str = ""
    """Names that callers know the service by, with commas between; "*" for any. Addresses and loopback need none."""


def app(options: DeploymentOptions) -> Any:
    """The application, for `serve run hsexport.deploy.ray.deployment:app bundle=PATH replicas=2`, or `ray.serve.run`.

    The bundle must lie at the same path on every machine; it is looked at here first. Raises BundleError.
    """
    from ray import serve

    manifest = open_bundle(options.bundle).manifest
    gpus = gpus_of_each(manifest, options.gpus_per_replica)

    def made() -> FastAPI:
        return _replica_app(options)

    @serve.ingress(made)
    class Pictures:
        def check_health(self) -> None:
            """Asked by Ray now and then; one that raises is started anew."""
            if not self.app.state.service.alive:  # type: ignore[attr-defined]  # Ray adds `app`
                raise RuntimeError("the thread that draws has ended")

    deployment = serve.deployment(Pictures).options(
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        # The replica's own queue decides who waits; Ray's, before it, evens out between replicas.
        max_ongoing_requests=2 * options.queue,
        max_queued_requests=options.queue * options.replicas,
        graceful_shutdown_timeout_s=options.timeout,
    )
    return deployment.bind()


def _replica_app(options: DeploymentOptions) -> FastAPI:
    hosts = tuple(name.strip() for name in options.allowed_hosts.split(",") if name.strip())
    shared = options.model_dump(include=set(ServerOptions.__struct_fields__))
    threads = threads_of_each(options.replicas, options.threads)
    session = SessionOptions(device=options.device, threads=threads, adapter_folder=options.adapter_folder)
    return make_app(Service(options.bundle, ServerOptions(hosts=hosts, **shared), session))
