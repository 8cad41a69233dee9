"""The house stays as docs/architecture.md draws it: who may know whom, no circles, no file too long to read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2r2

ROOT = Path(s2r2.__file__).parent
LONGEST = 350
VENDORED = "deck.js"

# What a room may import besides itself. Rooms above the line that ends in `errors` know nothing of images or networks.
GROUND = {"_version", "errors", "system", "settings"}
ALLOWED = {
    "_version": set(),
    "errors": set(),
    "system": {"errors"},
    "settings": {"errors", "system"},
    "distributed": {"errors", "system"},
    "losses": GROUND | {"distributed"},
    "views": GROUND,
    "images": GROUND,
    "embedding_map": GROUND,
    "runs": GROUND | {"distributed"},
    "encoder": GROUND | {"images", "runs", "views"},
    "evaluation": GROUND | {"distributed", "embedding_map", "encoder", "images", "runs", "views"},
    "search": GROUND | {"distributed", "embedding_map", "encoder", "images", "runs", "views"},
    "training": GROUND | {"distributed", "encoder", "evaluation", "images", "losses", "runs", "views"},
    "study": GROUND | {"distributed", "encoder", "evaluation", "images", "runs", "training", "views"},
    "ray": GROUND | {"encoder", "images", "search"},
    "refining": GROUND | {"encoder", "evaluation", "images", "losses", "search"},
}
ABOVE_ALL = {"cli", "__main__", "__init__"}  # the command line and the package's front door may know everything

# Within a room: from the ground up.
ORDERS = {
    "images": ["decoding", "sources", "store"],
    "evaluation": ["metrics", "protocols", "report"],
    "search": ["storage", "backends", "server"],
    "losses": ["backends"],
    "views": ["kernel"],
    "training": ["parallel", "methods", "run", "setup"],
}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a package is its ``__init__``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path], *, types: bool) -> Iterator[tuple[str, int]]:
    """Modules of the package that a module imports, anywhere in it, with lines; ``types``: those for types too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            skipped |= {part for child in node.body for part in ast.walk(child)}
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "s2r2":
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in known else node.module), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "s2r2":
                    yield alias.name, node.lineno


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def backward_arrows(root: Path) -> list[str]:
    """Imports that the tables do not allow."""
    known, found = modules(root), []
    for name, path in known.items():
        for target, line in imports(name, path, known, types=True):
            here, there = room(name), room(target)
            where = f"{path.relative_to(root)}:{line}: {name} imports {target}"
            if here != there:
                if here not in ABOVE_ALL and there not in ALLOWED.get(here, set()):
                    found.append(where)
                continue
            order = ORDERS.get(here, [])
            inner = [part for part in (name.split(".")[2:3], target.split(".")[2:3]) if part and part[0] in order]
            if len(inner) == 2 and order.index(inner[0][0]) < order.index(inner[1][0]):
                found.append(where)
    return found


def circles(root: Path) -> list[list[str]]:
    """Groups of modules of which each reaches the others by imports that happen at run time."""
    known = modules(root)
    arrows = {name: {t for t, _ in imports(name, path, known, types=False)} - {name} for name, path in known.items()}
    reached: dict[str, set[str]] = {}
    for start in arrows:
        seen, todo = set(), list(arrows[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += arrows.get(name, ())
        reached[start] = seen
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in arrows if a in reached[a]}
    return [list(group) for group in sorted(groups)]


def long_files(root: Path) -> list[str]:
    """Files longer than anybody reads in one go."""
    files = (path for path in root.rglob("*") if path.suffix in (".py", ".js", ".css", ".html"))
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files if path.name != VENDORED}
    return [f"{path.relative_to(root)}: {length} lines" for path, length in lengths.items() if length > LONGEST]


def test_every_room_is_in_the_table() -> None:
    assert {room(name) for name in modules(ROOT)} - ABOVE_ALL == set(ALLOWED)


def test_no_arrow_runs_back() -> None:
    assert backward_arrows(ROOT) == []


def test_no_circle() -> None:
    assert circles(ROOT) == []


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in {
        "__init__": "", "errors": "", "views/__init__": "", "images/__init__": "", "images/decoding": "x = 1\n",
        "images/sources": "from s2r2.images import decoding\nimport s2r2.errors\n",
    }.items():  # fmt: skip
        path = tmp_path / "s2r2" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path / "s2r2"


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("from s2r2.views import anything\n", backward_arrows),
        ("def later():\n    import s2r2.views\n", backward_arrows),
        ("from s2r2.images.sources import Source\n", backward_arrows),
        ("def later():\n    from s2r2.images import sources\n", circles),
        ("x = 1\n" * (LONGEST + 1), long_files),
    ],
)
def test_it_fails_when_a_rule_is_broken(house: Path, text: str, check: object) -> None:
    assert callable(check)
    assert check(house) == []
    (house / "images" / "decoding.py").write_text(text)
    assert len(check(house)) == 1
