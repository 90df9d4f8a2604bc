"""A JSON schema as lines of text, one for each field at whatever depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "length ≥ {}",
    "maxLength": "length ≤ {}",
    "minItems": "length ≥ {}",
    "maxItems": "length ≤ {}",
    "maxProperties": "length ≤ {}",
    "pattern": "~ {}",
}


def lines(
    name: str, schema: dict[str, Any], definitions: dict[str, Any], *, is_required: bool = False
) -> Iterator[str]:
    """`name: type bounds = default` of the schema, then the same of what it holds: `name.field`, `name[]`, `name.*`.

    `definitions` are what its references name, by their last part; one that holds itself is told once.
    """
    yield from _lines(name, schema, definitions, is_required=is_required, above=())


def _lines(
    name: str, schema: dict[str, Any], definitions: dict[str, Any], *, is_required: bool, above: tuple[str, ...]
) -> Iterator[str]:
    forms = list(_forms(schema, definitions, above))
    default = f" = {json.dumps(schema['default'], ensure_ascii=False, sort_keys=True)}" if "default" in schema else ""
    types = " | ".join(dict.fromkeys(_type(form) for form, _ in forms))
    yield f"{name}: {types}{default}{', required' if is_required else ''}"
    for form, inside in forms:
        needed = form.get("required", ())
        for field, one in form.get("properties", {}).items():
            yield from _lines(f"{name}.{field}", one, definitions, is_required=field in needed, above=inside)
        values = [form.get("additionalProperties"), *form.get("patternProperties", {}).values()]
        for mark, one in [("[]", form.get("items")), *((".*", value) for value in values)]:
            if isinstance(one, dict) and one:
                yield from _lines(f"{name}{mark}", one, definitions, is_required=False, above=inside)


def _forms(
    schema: dict[str, Any], definitions: dict[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The schemas without references and alternatives that it stands for, each with the references that led there."""
    if "$ref" in schema:
        reference = schema["$ref"].rsplit("/", 1)[-1]
        if reference in above:
            yield {"type": reference}, above
        else:
            yield from _forms(definitions[reference], definitions, (*above, reference))
        return
    alternatives = [one for word in ("anyOf", "oneOf", "allOf") for one in schema.get(word, ())]
    for one in alternatives:
        yield from _forms(one, definitions, above)
    if not alternatives:
        yield schema, above


def _type(form: dict[str, Any]) -> str:
    values = form.get("enum", [form["const"]] if "const" in form else None)
    if values is not None:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    types = form.get("type", "anything")
    words = [
        types if isinstance(types, str) else " | ".join(types),
        *([f"({form['format']})"] if "format" in form else []),
    ]
    return " ".join([*words, *(text.format(form[word]) for word, text in _BOUNDS.items() if word in form)])
