"""The one base of everything that is read from JSON: manifests, facts, schedules, options."""

from __future__ import annotations

from msgspec import Struct


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """A record that knows all of its fields."""
