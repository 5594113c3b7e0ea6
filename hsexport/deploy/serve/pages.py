"""What browsers get: the rules that a page runs under, and the reference of the API as a page without a script."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Any

INLINE = {"script-src": r"<script>(.*?)</script>", "style-src": r"<style>(.*?)</style>"}


def page_headers(page: str) -> dict[str, str]:
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


STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td{padding:2px 1em 2px 0}"


def reference(openapi: dict[str, Any]) -> str:
    """Routes and fields as HTML; /openapi.json has more for programs."""
    schemas = openapi["components"]["schemas"]
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>hsexport</title><style>{STYLE}</style>"]
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h3>{method.upper()} {escape(path)}</h3><p>{escape(route.get('description', ''))}</p>")
            parts += [
                _fields(schemas[name]) for name in re.findall(r"schemas/(\w+)", str(route.get("requestBody", "")))
            ]
    return "".join([*parts, "<p>All of it for programs: <a href=openapi.json>openapi.json</a></p></html>"])


def _fields(schema: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{escape(field.get('description', ''))}"
        f"<td>{escape(repr(field['default'])) if 'default' in field else ''}"
        for name, field in schema["properties"].items()
    ]
    return f"<table><tr><th>field<th>what it is<th>default{''.join(rows)}</table>"
