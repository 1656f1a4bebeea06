"""Derivations as JSON, of a published and versioned schema.

A page or a program that reads it needs nothing of backlit: every step has its three forms as plain text and as LaTeX,
its number, the numbers of the equations that it uses, and for each operand the node and element of the graph that it
is. Numbers that JSON does not know (nan, inf) are strings.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from backlit.explanation.derivation import Derivation
from backlit.explanation.latex import LATEX, latex_symbol
from backlit.explanation.maker import LARGEST
from backlit.explanation.notation import TEXT, plain, write
from backlit.explanation.sections import legend
from backlit.explanation.steps import KINDS, Operand, Step, rests

VERSION = 1

_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
_VALUE = {"anyOf": [*_NUMBER["anyOf"], {"type": "array"}, {"type": "null"}]}  # null: an array too large to be printed
_PLACE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_FORMS = {"type": "object", "required": ["text", "latex"], "additionalProperties": False} | {
    "properties": {"text": {"type": "string"}, "latex": {"type": "string"}}
}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": f"urn:backlit:derivation:{VERSION}",
    "title": "A derivation: the chain rule for one element, in numbered equations",
    **_object(
        {
            "version": {"const": VERSION},
            "title": {"type": "string"},
            "wrt": _object({"name": {"type": "string"}, "symbol": _FORMS}),
            "loss": _FORMS,
            "gradient": _VALUE,
            "view": {"enum": ["deltas", "paths", "matrix"]},
            "layers": {"type": "object", "additionalProperties": {"type": "string"}},
            "legend": {"type": "string"},
            "quantities": {
                "type": "object",
                "additionalProperties": _object(
                    {
                        "kind": {"type": "string"},
                        "name": {"type": "string"},
                        "node": {"type": "integer"},
                        "op": {"type": "string"},
                        "shape": _PLACE,
                        "dtype": {"type": "string"},
                        "line": {"type": "string"},
                    }
                ),
            },
            "steps": {
                "type": "array",
                "items": _object(
                    {
                        "number": {"type": "integer", "minimum": 1},
                        "kind": {"enum": list(KINDS)},
                        "quantity": {"type": "string"},
                        "symbol": _FORMS,
                        "value": _VALUE,
                        "text": {"type": "string"},
                        "node": {"type": "integer", "minimum": -1},
                        "element": _PLACE,
                        "shape": _PLACE,
                        "uses": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                        "sentence": {"type": "string"},
                    },
                    {
                        "chain": _FORMS,
                        "symbolic": _FORMS,
                        "substituted": _FORMS,
                        "operands": {
                            "type": "array",
                            "items": _object(
                                {
                                    "symbol": {"type": "string"},
                                    "quantity": {"type": "string"},
                                    "value": _VALUE,
                                    "text": {"type": "string"},
                                    "node": {"type": "integer", "minimum": -1},
                                    "element": _PLACE,
                                    "step": {"type": "integer", "minimum": 0},
                                }
                            ),
                        },
                        "folded": {
                            "type": "array",
                            "items": _object(
                                {
                                    "count": {"type": "integer", "minimum": 0},
                                    "value": _NUMBER,
                                    "text": {"type": "string"},
                                    "what": {"enum": ["terms", "elements", "paths", "rounding"]},
                                }
                            ),
                        },
                    },
                ),
            },
        }
    ),
}
"""The JSON Schema of what `Derivation.json()` gives."""


def record(d: Derivation) -> dict[str, Any]:
    """A derivation as plain dicts, lists, strings and numbers."""
    return {
        "version": VERSION,
        "title": d.title,
        "wrt": {"name": d.name, "symbol": {"text": plain(d.wrt), "latex": latex_symbol(d.wrt)}},
        "loss": {"text": plain(d.loss), "latex": latex_symbol(d.loss)},
        "gradient": _plain(d.value) if np.size(d.value) <= LARGEST else None,
        "view": d.options.view,
        "layers": dict(d.layers),
        "legend": legend(d),
        "quantities": {k: dict(v) for k, v in d.quantities.items()},
        "steps": [_step(s) for s in d.steps],
    }


def _step(s: Step) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": s.number,
        "kind": s.kind,
        "quantity": s.quantity,
        "symbol": {"text": plain(s.symbol), "latex": latex_symbol(s.symbol)},
        "value": _plain(s.value) if s.complete else None,
        "text": s.text,
        "node": s.node,
        "element": list(s.element),
        "shape": list(s.shape),
        "uses": list(s.uses),
        "sentence": s.sentence,
    }
    if s.chain is not None:
        found["chain"] = {"text": write(s.chain, TEXT, False), "latex": write(s.chain, LATEX, False)}
    if s.expression is not None:
        for form, numbers in (("symbolic", False), ("substituted", True)):
            if numbers and not s.complete:
                continue
            found[form] = {d: write(s.expression, w, numbers) for d, w in (("text", TEXT), ("latex", LATEX))}
        found["operands"] = [_operand(o) for o in s.operands]
        folded = list(rests(s.expression))
        if folded:
            found["folded"] = [
                {"count": r.count, "value": _plain(r.value), "text": r.text, "what": r.what} for r in folded
            ]
    return found


def _operand(o: Operand) -> dict[str, Any]:
    return {
        "symbol": plain(o.symbol),
        "quantity": o.quantity,
        "value": _plain(o.value) if o.text else None,
        "text": o.text,
        "node": o.node,
        "element": list(o.element),
        "step": o.step,
    }


def _plain(value: Any) -> Any:
    """A number or an array as JSON has them."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()] if value.ndim else _plain(value.item())
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, str):
        return value
    return value if math.isfinite(value) else str(value)


def dumps(d: Derivation) -> str:
    """A derivation as JSON text, one step a line."""
    found = record(d)
    steps = found.pop("steps")

    def compact(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    return compact(found)[:-1] + ',"steps":[\n' + ",\n".join(map(compact, steps)) + "\n]}\n"
