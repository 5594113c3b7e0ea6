"""The ASGI application: routes, what stands around them, and what browsers get."""

from __future__ import annotations

import asyncio
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

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
    form_schema,
)
from hsexport.deploy.serve.forms import edits_request
from hsexport.deploy.serve.images import Desk, answered
from hsexport.deploy.serve.limits import Body, body_limits, heads_answered, origins_checked, request_limit
from hsexport.deploy.serve.metrics import measured
from hsexport.deploy.serve.options import ServerOptions
from hsexport.deploy.serve.service import Service
from hsexport.deploy.serve.waiting import QueueFullError
from hsruntime.facts import size_text
from hsruntime.schedule.presets import PRESETS

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
INLINE = {"script-src": r"<script>(.*?)</script>", "style-src": r"<style>(.*?)</style>"}
STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td{padding:2px 1em 2px 0}"
FAULTS = {
    400: "what was asked for cannot be drawn",
    401: "the key is missing or wrong",
    403: "the name or the page that it was asked by is not allowed",
    404: "there is no such thing here",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is of another kind",
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
    text, form = _bodies(options)
    app.add_middleware(body_limits, others=text, by_path={EDITS: form}, seconds=options.body_timeout)
    app.add_middleware(measured, metrics=service.metrics, paths=(GENERATIONS, EDITS))
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


def _bodies(options: ServerOptions) -> tuple[Body, Body]:
    """JSON and forms with pictures."""
    elsewhere = f"shorten the prompt; pictures go to {EDITS} as files, or the server takes a larger --max-body-kb"
    text = Body("application/json", 1024 * options.max_body_kb, elsewhere)
    smaller = "send smaller pictures, or the server takes a larger --max-upload-kb"
    return text, Body("multipart/form-data", 1024 * options.max_upload_kb, smaller)


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
    desk, uploads = Desk(service), asyncio.Semaphore(service.options.queue)

    @app.post(GENERATIONS, dependencies=keyed, responses=_faults(*FAULTS))
    async def generate(asked: ImagesRequest, request: Request) -> ImagesResponse:
        """Draws pictures."""
        return await answered(service, await desk.ordered(asked), request)

    form = {"content": {"multipart/form-data": {"schema": form_schema()}}, "required": True}

    @app.post(EDITS, dependencies=keyed, responses=_faults(*FAULTS), openapi_extra={"requestBody": form})
    async def edit(request: Request) -> ImagesResponse:
        """Draws pictures that begin from one; a form, whose files are a picture, a mask, a region mask."""
        if uploads.locked():
            raise QueueFullError(f"{service.options.queue} requests with pictures are being read", "try later")
        async with uploads:
            ordered = await desk.ordered(await edits_request(request))
        return await answered(service, ordered, request)

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
    headers = _page_headers(page)

    @app.get("/", include_in_schema=False)
    async def try_it() -> HTMLResponse:
        """A page to try it in."""
        return HTMLResponse(page, headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """What may be asked for."""
        text = _reference(app.openapi())
        return HTMLResponse(text, headers=_page_headers(text))


def _page_headers(page: str) -> dict[str, str]:
    """A page may run what stands in it and ask this server, nothing else; no other page may frame it."""
    allowed = {
        kind: " ".join(f"'sha256-{_digest(text)}'" for text in re.findall(pattern, page, re.DOTALL)) or "'none'"
        for kind, pattern in INLINE.items()
    }
    rules = {"default-src": "'none'", **allowed, "img-src": "'self' data: blob:", "connect-src": "'self'"}
    rules |= {"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _reference(openapi: dict[str, Any]) -> str:
    """Routes and fields as HTML; /openapi.json has more for programs."""
    schemas = openapi["components"]["schemas"]
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>hsexport</title><style>{STYLE}</style>"]
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h3>{method.upper()} {escape(path)}</h3><p>{escape(route.get('description', ''))}</p>")
            parts += [_fields(schema) for schema in _bodies_of(route, schemas)]
    return "".join([*parts, "<p>All of it for programs: <a href=openapi.json>openapi.json</a></p></html>"])


def _bodies_of(route: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """What a route takes: a schema that has a name, or one that stands there."""
    found = [content["schema"] for content in route.get("requestBody", {}).get("content", {}).values()]
    return [schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema for schema in found]


def _fields(schema: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{escape(field.get('description', ''))}"
        f"<td>{escape(repr(field['default'])) if 'default' in field else ''}"
        for name, field in schema["properties"].items()
    ]
    return f"<table><tr><th>field<th>what it is<th>default{''.join(rows)}</table>"


def _facts(service: Service) -> BundleFacts:
    manifest = service.session.manifest
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
        adapters=service.session.adapter_names(),
    )


def _faults(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: {"model": ErrorResponse, "description": FAULTS[status]} for status in statuses}
