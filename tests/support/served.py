"""`hsexport serve` as a process of its own, on a free port."""

import base64
import io
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"


class Served:
    """A running server; `log` grows while it runs."""

    def __init__(self, process):
        self.process = process
        self.log = []
        self.url = self._url()
        threading.Thread(target=self._drain, daemon=True).start()
        self.client = httpx.Client(base_url=self.url, timeout=120)

    def ask(self, prompt="red", **fields):
        return self.client.post(GENERATIONS, json={"prompt": prompt, **fields})

    def edit(self, image, prompt="red", *, files=(), **fields):
        """A form; `files` beside the image: (name, bytes)."""
        pictures = [] if image is None else [("image", image)]
        parts = [(name, (f"{name}.png", data)) for name, data in [*pictures, *files]]
        for name, value in {"prompt": prompt, **fields}.items():
            parts.append((name, (None, value if isinstance(value, bytes) else str(value))))
        return self.client.post(EDITS, files=parts)

    def metric(self, name):
        """The value of one sample; 0 if it was never counted."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _url(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"is served at (http://\S+)", line):
                return found[1]
        raise AssertionError("".join(self.log))

    def _drain(self):
        self.log.extend(self.process.stderr)


def start(bundle, *options):
    """Waits until the server listens."""
    command = [sys.executable, "-m", "hsexport.cli.main", "serve", str(bundle), "--port", "0", *map(str, options)]
    return Served(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True))


@contextmanager
def serving(bundle, *options):
    """A server that is killed in the end, whatever happened."""
    server = start(bundle, *options)
    try:
        yield server
    finally:
        server.client.close()
        server.process.kill()
        server.process.wait()


def pictures_of(answer):
    """(H, W, 3) uint8 of each picture in a JSON answer."""
    return [array_of(entry["b64_json"]) for entry in answer["data"]]


def array_of(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def file_of(picture, form="PNG", **settings):
    """The bytes of a file: of an array, or of Pillow's picture."""
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, form, **settings)
    return file.getvalue()
