"""Less is a feature: how much one must read to follow a build or a picture, and rule 4, a fact is stated once."""

from __future__ import annotations

import ast
from pathlib import Path

import counts
import msgspec
import pytest

from hsruntime.bundle.manifest import EngineRecord, Manifest
from hsruntime.facts import Facts

MOST = {"one build": (83, 71), "one picture": (37, 52)}
"""Files and record types in reach; they may fall. Adapters at run time took the last steps up (a build writes where
each weight lies, and a session reads LoRAs), and pictures that begin from others, which are read and encoded; a build's
last, quantised weights, as checkpoints have them and as bundles do: which matrix is stored how, and what calibration
knows of it; of that a manifest tells."""
KNOWN = counts.modules()


@pytest.mark.parametrize("what", counts.STARTS)
def test_what_one_must_read_stays_little(what):
    found = counts.reach(counts.STARTS[what], KNOWN)
    files, records = len(found), sum(len(counts.records(KNOWN[module])) for module in found)
    assert (files, records) <= MOST[what] and records <= MOST[what][1]


def test_no_module_imports_itself_by_way_of_others():
    assert counts.cycles(KNOWN) == []


def fields_of(file: Path) -> dict[str, set[str]]:
    """Annotated names in the bodies of a file's record types."""
    classes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)]
    names = counts.records(file)
    return {
        each.name: {
            line.target.id
            for line in each.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for each in classes
        if each.name in names
    }


ROLES = {"large", "small", "light"}
"""Who runs: a record of what each of them does or costs says nothing of what it is."""


def stated_again(fields: set[str]) -> bool:
    """Whether a record says what Facts or an engine's signature says already."""
    facts, signature = fields & set(Facts.__struct_fields__), {"inputs", "outputs", "profiles"}
    return (len(facts) >= 3 and not facts <= ROLES) or signature <= fields


def test_a_record_that_states_facts_again_is_found():
    assert stated_again({"large", "small", "latent", "device"})
    assert stated_again({"file", "inputs", "outputs", "profiles"})
    assert stated_again({"large", "small", "light", "sizes"})
    assert not stated_again({"large", "small", "out"})
    assert not stated_again({"large", "small", "light", "steps"})


def test_facts_are_stated_in_one_record():
    own = {KNOWN["hsruntime.facts"], KNOWN["hsengines.spec"]}
    found = [
        (module, name)
        for module, file in KNOWN.items()
        if file not in own
        for name, fields in fields_of(file).items()
        if stated_again(fields)
    ]
    assert found == []


def test_the_manifest_holds_facts_and_signatures_as_they_are():
    types = {field.name: field.type for field in msgspec.structs.fields(Manifest)}
    assert types["facts"] is Facts
    assert "spec" in EngineRecord.__struct_fields__
