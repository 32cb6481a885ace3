"""Style that a tool can check: import direction, lengths, banned calls, module docstrings, the package list."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("node", "client", "cluster")
LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Only these may name ray, and `import ray` stands inside functions wherever the module also serves without it.
RAY_FILES = frozenset({"cluster"})
# What a client may use of a node: shared types, errors, keys, and the engine for the embedded default.
BANNED_CALLS = {
    "time.time": "hand the clock in (node.clock)",
    "random.random": "hand a seeded random.Random in",
    "random.choice": "hand a seeded random.Random in",
    "random.randint": "hand a seeded random.Random in",
    "hash": "use hashlib or zlib.crc32: the builtin differs between processes",
}
CLOCK_FILES = frozenset({"node/clock.py"})


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_tidy(path: Path) -> None:
    """Each source file keeps to the import direction, the lengths, and the injected clock."""
    name = str(path.relative_to(ROOT))
    package = name.split("/", maxsplit=1)[0]
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{name}: begin with why the module exists and what always holds in it"
    assert len(text.splitlines()) <= LINES_MAX, f"{name}: over {LINES_MAX} lines; is there a second idea in it?"
    for module in imports(tree):
        if package == "node":
            assert not module.startswith(("stratacache.client", "stratacache.cluster")), (
                f"{name}: node imports {module}"
            )
        if package == "client":
            assert not module.startswith("stratacache.cluster"), f"{name}: client imports {module}"
        if module.split(".")[0] == "ray":
            assert package in RAY_FILES, f"{name}: only the cluster package may import ray"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name not in CLOCK_FILES:
            called = dotted(node.func)
            assert called not in BANNED_CALLS, f"{name}:{node.lineno}: {called}(): {BANNED_CALLS[called]}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{name}:{node.lineno}: {node.name} has {length} lines; split it"


def test_every_package_is_shipped() -> None:
    """A sub-package that pyproject.toml does not list would be missing from the wheel."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        "stratacache." + ".".join(init.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found
