"""As much of a model hub as its own client asks for: a tree of files, and their bytes, whole or in ranges."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

SEEN_BYTES = 1 << 20
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ModelHub:
    """Repositories by name, each a folder; `read` counts the bytes of every file that went out."""

    url: str
    repositories: Mapping[str, Path]
    gated: set[str] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)

    def environment(self, cache: Path) -> dict[str, str]:
        """For a process that shall take this hub for the hub, and `cache` for its cache."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_CACHE": str(cache)}

    def weights_read(self) -> int:
        """Bytes of safetensors files."""
        return sum(count for name, count in self.read.items() if name.endswith(".safetensors"))

    def info(self, request: Request) -> Response:
        """What the repository is."""
        self.root(request)
        name = "{owner}/{name}".format_map(request.path_params)
        return JSONResponse({"id": name, "sha": COMMIT, "tags": [], "downloads": 0, "likes": 0, "private": False})

    def tree(self, request: Request) -> Response:
        """All files of it."""
        root = self.root(request)
        files = sorted(file for file in root.rglob("*") if file.is_file())
        return JSONResponse([described(file, file.relative_to(root).as_posix()) for file in files])

    def file(self, request: Request) -> Response:
        """One of them."""
        path = request.path_params["path"]
        file = self.root(request) / path
        if not file.is_file():
            raise refusal(404, "EntryNotFound")
        if request.method == "GET":
            first, _, last = request.headers.get("range", "").removeprefix("bytes=").partition("-")
            size = file.stat().st_size
            self.read[path] = self.read.get(path, 0) + min(int(last or size - 1), size - 1) - int(first or 0) + 1
        return FileResponse(file, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{oid_of(file)}"'})

    def root(self, request: Request) -> Path:
        """Of the repository that is asked for."""
        name = "{owner}/{name}".format_map(request.path_params)
        if name in self.gated:
            raise refusal(403, "GatedRepo")
        if name not in self.repositories:
            raise refusal(404, "RepoNotFound")
        return self.repositories[name]


def refusal(status: int, code: str) -> HTTPException:
    """As the hub says no."""
    return HTTPException(status, code, {"X-Error-Code": code})


def described(file: Path, path: str) -> dict[str, object]:
    """One entry of a tree; weights are kept as large files."""
    size = file.stat().st_size
    told: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": oid_of(file)}
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:  # what is behind the first bytes is holes, or follows a header of its own
            sha = hashlib.sha256(stream.read(SEEN_BYTES))
        told["lfs"] = {"oid": sha.hexdigest(), "size": size, "pointerSize": 130}
    return told


def oid_of(file: Path) -> str:
    """A name for a version of it; the client asks for no particular one."""
    return hashlib.sha1(f"{file} {file.stat().st_mtime_ns}".encode()).hexdigest()


@contextmanager
def model_hub(repositories: Mapping[str, Path]) -> Iterator[ModelHub]:
    """A hub on a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        hub = ModelHub(f"http://127.0.0.1:{listener.getsockname()[1]}", repositories)
        repository = "/{owner}/{name}"
        routes = [
            Route(f"/api/models{repository}", hub.info),
            Route(f"/api/models{repository}/revision/{{revision}}", hub.info),
            Route(f"/api/models{repository}/tree/{{revision}}", hub.tree),
            Route(f"{repository}/resolve/{{revision}}/{{path:path}}", hub.file),
        ]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join()
