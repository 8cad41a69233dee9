"""The reference of the JSON API: its OpenAPI description, and a page of it that needs no script and no other server."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel

from s2r2._version import __version__

_REFERENCE = "#/components/schemas/"
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>s2r2: JSON API</title>
<link rel="icon" href="{root}/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{root}/page/style.css">
</head>
<body class="reference">
<header>
<a class="brand" href="{root}/" aria-label="s2r2: search">s2r2</a>
<h1>JSON API</h1>
<p>Version {version}. Programs read <a href="{root}/openapi.json">openapi.json</a>.</p>
</header>
<main>
"""
Part = dict[str, Any]


def json_body(kind: type[BaseModel]) -> Part:
    """``openapi_extra`` of a route that reads its JSON itself."""
    content = {"application/json": {"schema": {"$ref": _REFERENCE + kind.__name__}}}
    return {"requestBody": {"required": True, "content": content}}


IMAGE_BODY: Part = {
    "requestBody": {
        "required": True,
        "description": "An image file, as it is.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def add_reference(app: FastAPI, root: str, bodies: Sequence[type[BaseModel]]) -> None:
    """Answer ``/openapi.json``, and ``/docs`` with the same as a page.

    Args:
        app: The application, with all that it answers.
        root: Path under which a proxy shows it.
        bodies: What requests carry as JSON.
    """
    described = description(app, root, bodies)
    text, page = json.dumps(described), "".join(_page(described, root))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(text, media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def reference() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")


def description(app: FastAPI, root: str, bodies: Sequence[type[BaseModel]]) -> Part:
    """The application in OpenAPI 3.1; arguments as for :func:`add_reference`."""
    found: Part = app.openapi()
    found["servers"] = [{"url": root or "/"}]
    for kind in bodies:
        schema = kind.model_json_schema(ref_template=_REFERENCE + "{model}")
        found["components"]["schemas"] |= schema.pop("$defs", {}) | {kind.__name__: schema}
    return found


def _page(described: Part, root: str) -> Iterator[str]:
    yield _HEAD.format(root=root, version=__version__)
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield from _operation(f"{method.upper()} {path}", operation)
    yield "<h2>Objects</h2>"
    for name, schema in sorted(described["components"]["schemas"].items()):
        required = schema.get("required", [])
        rows = [
            (field, _kind(part) + ("" if field in required else ", may be left out"), part.get("description", ""))
            for field, part in schema.get("properties", {}).items()
        ]
        yield f'<section><h3 id="{escape(name)}">{escape(name)}</h3>{_text(schema)}{_table("field", rows)}</section>'
    yield "</main></body></html>"


def _operation(name: str, operation: Part) -> Iterator[str]:
    rows = [
        (part["name"], _kind(part["schema"]) + (", required" if part.get("required") else ""), _said(part))
        for part in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    rows += [("body", f"{kind}: {_kind(part['schema'])}", "") for kind, part in body.items()]
    answers = [
        (status, ", ".join(f"{kind}: {_kind(part['schema'])}" for kind, part in answer.get("content", {}).items()), "")
        for status, answer in operation["responses"].items()
    ]
    yield f"<section><h2><code>{escape(name)}</code></h2>{_text(operation)}"
    yield _table("parameter", rows) + _table("answer", answers) + "</section>"


def _text(part: Part) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in part.get("description", "").split("\n\n")[:1] if line)


def _said(part: Part) -> str:
    return str(part.get("description") or part["schema"].get("description", ""))


def _kind(schema: Part) -> str:
    """A type in words: ``array of Photo``, ``integer from 1 to 500 (60)``."""
    if "$ref" in schema:
        return str(schema["$ref"].removeprefix(_REFERENCE))
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("format") or schema.get("type", "anything"))
    if kind == "array":
        kind = f"array of {_kind(schema.get('items', {}))}"
    limits = [f"{word} {schema[name]}" for word, name in (("from", "minimum"), ("to", "maximum")) if name in schema]
    default = [f"({schema['default']})"] if schema.get("default") is not None else []
    return " ".join([kind, *limits, *default])


def _table(heading: str, rows: Sequence[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(kind)}</td><td>{escape(said)}</td></tr>"
        for name, kind, said in rows
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in (heading, "type", "meaning"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
