"""What others rely on, as lines of text: commands, routes, settings, metrics and tables, each from its definition."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic_settings import BaseSettings
from sqlalchemy.dialects import postgresql

from fast_api_service.app import create_app
from fast_api_service.auth.scopes import by_operation, in_words
from fast_api_service.metrics import Metrics
from fast_api_service.settings import ApiSettings
from recsys import cli
from recsys.settings import ROOT, Settings, variable
from recsys.storage import raw_tables, tables
from tests.surface import schemas

FOLDER = Path(__file__).parent
# What most fields of routes are, written as `id`; where this changes, all their lines do.
_ID = (
    r"integer ≥ -999999999999999999 ≤ 999999999999999999 | "
    r"string length ≥ 1 length ≤ 128 ~ ^[^\u0000]*[^\s\u0000][^\u0000]*$"
)


def commands() -> Iterator[str]:
    """`recsys command` and `recsys command ARGUMENT or --option: type = default`."""
    yield from _commands("recsys", typer.main.get_command(cli.app))


def _commands(name: str, command: Any) -> Iterator[str]:
    if subcommands := getattr(command, "commands", None):
        for subname, subcommand in subcommands.items():
            yield from _commands(f"{name} {subname}", subcommand)
        return
    yield name
    for one in command.params:
        called = " ".join([*one.opts, *one.secondary_opts])
        if one.param_type_name == "argument":
            called = called.upper()
        kind = one.type_descriptor.annotation
        bounds = "".join(f" {sign} {bound}" for sign, bound in (("≥", one.min), ("≤", one.max)) if bound is not None)
        end = ", required" if one.required else f" = {json.dumps(one.default, default=str)}"
        yield f"{name} {called}: {getattr(kind, '__name__', kind) if '[' not in str(kind) else kind}{bounds}{end}"


def routes() -> Iterator[str]:
    """`METHOD path` with its scope, the codes of its refusals, and each field of what it takes and answers."""
    app = create_app("postgresql://nobody@localhost/none")
    document = app.openapi()
    scopes = {at: in_words(needed) if needed else "no scope" for at, needed in by_operation(app.routes).items()}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for text in _operation(scopes[method.upper(), path], operation, document["components"]["schemas"]):
                yield f"{method.upper()} {path} {text.replace(_ID, 'id')}"
    for route in app.routes:
        path = getattr(route, "path", "")
        if not getattr(route, "include_in_schema", False):
            for method in getattr(route, "methods", None) or {"GET"}:
                below = "" if getattr(route, "methods", None) else "/*"
                yield f"{method} {path}{below} {scopes[method, path]}, not in the document"


def _operation(scopes: str, operation: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    refusals = sorted(code for code in operation["responses"] if int(code) >= 400)
    yield f"{scopes}, refuses with {' '.join(refusals) or 'nothing'}"
    for one in operation.get("parameters", ()):
        name = f"{one['in']} {one['name']}"
        yield from schemas.lines(name, one["schema"], definitions, is_required=one.get("required", False))
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield from schemas.lines("body", content["schema"], definitions)
    for code, answer in operation["responses"].items():
        if code not in refusals:
            for media_type, content in answer.get("content", {"nothing": {}}).items():
                name = code if media_type == "application/json" else f"{code} {media_type}"
                yield from schemas.lines(name, content.get("schema", {}), definitions)


def settings() -> Iterator[str]:
    """`VARIABLE: type bounds = default` of the pipeline, the service and, within RECSYS_UPDATER, the updater."""
    kinds: tuple[type[BaseSettings], ...] = (Settings, ApiSettings)
    for kind in kinds:
        schema = json.loads(json.dumps(kind.model_json_schema(by_alias=False)).replace(str(ROOT), "<repository>"))
        for name, one in schema["properties"].items():
            yield from schemas.lines(variable(kind, name), one, schema.get("$defs", {}))


def metrics() -> Iterator[str]:
    """`name: type by labels` of all that /metrics tells."""
    for collector in Metrics().registry._collector_to_names:  # prometheus_client tells labels nowhere else
        for family in collector.collect():
            labels = ", ".join(getattr(collector, "_labelnames", ()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield f"{name}: {family.type}{f' by {labels}' if labels else ''}"


def columns() -> Iterator[str]:
    """`table.column: type` of all tables in Postgres, with what makes the primary key."""
    dialect = postgresql.dialect()
    for metadata in (tables.metadata, raw_tables.metadata):
        for name, table in metadata.tables.items():
            for column in table.columns:
                end = ", primary key" if column.primary_key else "" if column.nullable else ", not null"
                yield f"{name}.{column.name}: {column.type.compile(dialect)}{end}"


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "metrics": metrics,
    "routes": routes,
    "settings": settings,
    "tables": columns,
}


def text(kind: str) -> str:
    """The snapshot of one kind as the code has it now: sorted lines; routes by path."""
    by_path = {"routes": lambda line: [*line.split(" ", 2)[1::-1], line]}
    return "".join(f"{line}\n" for line in sorted(set(KINDS[kind]()), key=by_path.get(kind)))


def file(kind: str) -> Path:
    """Where the snapshot of one kind is kept."""
    return FOLDER / f"{kind}.txt"
