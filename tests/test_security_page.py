"""Each promise of SECURITY.md names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_promise_has_its_test() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    named = [re.search(r"`(tests/\S+\.py)::(\w+)` \|$", line) for line in rows]
    assert len(named) > 30
    for row, found in zip(rows, named, strict=True):
        assert found is not None, row
        tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
        assert found[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row
