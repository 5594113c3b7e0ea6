"""The ASGI application: routes, and what stands around them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from hsexport import __version__
from hsexport.deploy.serve import errors
from hsexport.deploy.serve.api import (
    BundleFacts,
    ErrorResponse,
    Health,
    ImagesRequest,
    ImagesResponse,
    Model,
    Models,
)
from hsexport.deploy.serve.images import answer_of, drawn
from hsexport.deploy.serve.limits import body_limits, heads_answered, origins_checked, request_limit
from hsexport.deploy.serve.metrics import measured
from hsexport.deploy.serve.pages import page_headers, reference
from hsexport.deploy.serve.service import Service
from hsruntime.facts import size_text
from hsruntime.schedule.presets import PRESETS

GENERATIONS = "/v1/images/generations"
FAULTS = {
    400: "what was asked for cannot be drawn",
    401: "the key is missing or wrong",
    403: "the name or the page that it was asked by is not allowed",
    404: "there is no such thing here",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "the queue is full",
    500: "an error inside the server",
    503: "the server is shutting down",
    504: "the pictures took too long",
}


def make_app(service: Service) -> FastAPI:
    """The application over a service, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    options = service.options
    app = FastAPI(title="hsexport", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(body_limits, most_bytes=1024 * options.max_body_kb, seconds=options.body_timeout)
    app.add_middleware(measured, metrics=service.metrics, path=GENERATIONS)
    app.add_middleware(request_limit, most=options.max_connections)
    app.add_middleware(heads_answered)
    if options.origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(origins_checked, hosts=options.hosts, origins=options.origins)
    errors.register(app)
    _add_state(app, service)
    _add_api(app, service)
    _add_page(app)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=_faults(503))
    async def health() -> Health:
        """Whether this process can still draw; if not, start it anew."""
        if not service.alive:
            raise HTTPException(503, "the thread that draws has ended")
        return Health(status="alive")

    @app.get("/ready", responses=_faults(503))
    async def ready() -> Health:
        """Whether requests should come here."""
        if not service.ready:
            raise HTTPException(503, "shutting down" if service.alive else "the thread that draws has ended")
        return Health(status="ready")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_api(app: FastAPI, service: Service) -> None:
    api_key = service.options.api_key

    def check_key(request: Request) -> None:
        """Compares in constant time."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode("latin-1"), (api_key or "").encode())
        if api_key and not (right and scheme.lower() == "bearer"):
            told = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise HTTPException(401, told, {"www-authenticate": "Bearer"})

    keyed = [Depends(check_key)]

    @app.post(GENERATIONS, dependencies=keyed, responses=_faults(*FAULTS))
    async def generate(asked: ImagesRequest, request: Request) -> ImagesResponse:
        """Draws pictures."""
        orders = asked.pictures()
        pictures = await drawn(service, orders, request)
        return await asyncio.to_thread(answer_of, asked, orders, pictures, service.cuts)

    @app.get("/v1/models", dependencies=keyed, responses=_faults(401))
    async def models() -> Models:
        """The bundle, as OpenAI's clients list models."""
        return Models(data=[Model(id=service.path.name)])

    @app.get("/v1/models/{name}", dependencies=keyed, responses=_faults(401, 404))
    async def model(name: str) -> Model:
        """The bundle, by its name."""
        if name != service.path.name:
            raise HTTPException(404, f"there is no model {name!r}, only {service.path.name!r}")
        return Model(id=name)

    @app.get("/v1/bundle", dependencies=keyed, responses=_faults(401))
    async def bundle() -> BundleFacts:
        """Sizes, defaults and presets."""
        return _facts(service)


def _add_page(app: FastAPI) -> None:
    page = files("hsexport.deploy.serve").joinpath("page.html").read_text("utf-8")
    headers = page_headers(page)

    @app.get("/", include_in_schema=False)
    async def try_it() -> HTMLResponse:
        """A page to try it in."""
        return HTMLResponse(page, headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """What may be asked for."""
        text = reference(app.openapi())
        return HTMLResponse(text, headers=page_headers(text))


def _facts(service: Service) -> BundleFacts:
    manifest = service.manifest
    return BundleFacts(
        identity=manifest.identity,
        backend=manifest.backend,
        precision=manifest.precision,
        default_size=size_text(manifest.facts.sizes.default),
        smallest_size=size_text(manifest.facts.sizes.minimum),
        largest_size=size_text(manifest.facts.sizes.maximum),
        multiple=manifest.facts.latent.pixels_per_token,
        schedule=manifest.facts.defaults.schedule,
        steps=manifest.facts.defaults.steps,
        guidance_scale=manifest.facts.defaults.guidance_scale,
        presets=sorted(PRESETS),
    )


def _faults(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: {"model": ErrorResponse, "description": FAULTS[status]} for status in statuses}
