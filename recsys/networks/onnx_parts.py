"""An exported network in two parts: what it makes of each item, and what it makes of users and that.

An item's side stays the same from request to request until weights change, so who serves may keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recsys.networks.onnx_files import ITEM_INPUT, ITEM_SIDE, OUTPUT


def parts(model: Any) -> tuple[Any, Any]:
    """Of an onnx.ModelProto with the outputs OUTPUT and ITEM_SIDE: the part from ITEM_INPUT to ITEM_SIDE, and the part
    from ITEM_SIDE and all other inputs to OUTPUT. Each has the weights that it needs, under the same names."""
    return _between(model, [ITEM_INPUT], ITEM_SIDE), _between(model, [ITEM_SIDE], OUTPUT)


def _between(model: Any, given: Sequence[str], output: str) -> Any:
    """The nodes that `output` needs where `given` is there, all else as in `model`."""
    from onnx import ModelProto

    made_by = {name: node for node in model.graph.node for name in node.output}
    needed, waiting = set(given), [output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting.extend(made_by[name].input if name in made_by else ())
    part = ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    named = {one.name: one for one in [*model.graph.input, *model.graph.output]}
    kept = {
        "node": [node for node in model.graph.node if set(node.output) & needed - set(given)],
        "initializer": [one for one in model.graph.initializer if one.name in needed],
        "input": [one for name, one in named.items() if name in given or (name in needed and name not in made_by)],
        "output": [named[output]],
    }
    for field, values in kept.items():
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.ClearField("value_info")
    return part
