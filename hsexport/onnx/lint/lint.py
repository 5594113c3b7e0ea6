"""All rules over one graph."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.lint.finding import Finding, Rule, Subject
from hsexport.onnx.lint.operators import (
    attention_in_fp32,
    attention_outputs,
    control_flow,
    data_dependent_shapes,
    foreign_domains,
    gather_nd_indices,
    large_top_k,
    leftovers,
)
from hsexport.onnx.lint.tensors import bf16_on_cpu, doubles, inline_weights

RULES: tuple[Rule, ...] = (
    attention_outputs,
    attention_in_fp32,
    large_top_k,
    data_dependent_shapes,
    gather_nd_indices,
    control_flow,
    foreign_domains,
    bf16_on_cpu,
    doubles,
    inline_weights,
    leftovers,
)


def lint(model: ir.Model, backend: str, precision: str) -> list[Finding]:
    """What `backend` would choke on in a graph of `precision`, what it refuses first.

    The graph may be an exported fp32 one that is still to be cast to `precision`. Nothing is changed.
    """
    subject = Subject(model, backend, precision)
    findings = [finding for rule in RULES for finding in rule(subject)]
    return sorted(findings, key=lambda finding: not finding.refused)
