"""The documentation: the nav is whole, links lead somewhere, what is named exists, and its first program runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import stratacache.client
from stratacache.cluster.cli import COMMANDS, cli
from stratacache.cluster.controller_metrics import NAMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "helm" / "README.md"]
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def nav(node: Any) -> Iterator[str]:
    """The pages of a part of the nav."""
    if isinstance(node, str):
        yield node
    else:
        for part in node if isinstance(node, list) else node.values():
            yield from nav(part)


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of code in a language; "" is the plain ones."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for named, text in found if named == language]


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown and GitHub make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def test_the_nav_names_every_page_once() -> None:
    """No page is left out, none is missing, none stands twice."""
    assert sorted(nav(SITE["nav"])) == [str(path.relative_to(DOCS)) for path in PAGES]


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Each relative link is a file, and its anchor a heading there; pages of the site link to nothing beside it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        if path in PAGES:
            assert there.is_relative_to(DOCS), f"{path.name}: {target} is not on the site"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(there), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{path.name}: {target}"


def test_every_metric_is_documented_as_it_is() -> None:
    """One row for each name: its type, its labels, its help."""
    text = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(stratacache_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    wanted = {}
    for name, known in NAMES.items():
        wanted[name] = (known.kind, ", ".join(f"`{label}`" for label in known.labels), known.text)
    assert {name: (kind, labels.strip(), text) for name, kind, labels, text in rows} == wanted
    assert len(rows) == len(wanted)


def resolved(identifier: str) -> Any:
    """The object of a dotted name."""
    try:
        return importlib.import_module(identifier)
    except ModuleNotFoundError:
        module, _, name = identifier.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_the_api_page_has_what_is_public() -> None:
    """Every identifier on the page exists and has a docstring; every public name of the client is there."""
    identifiers = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(set(identifiers)) == len(identifiers)
    assert all(resolved(identifier).__doc__ for identifier in identifiers)
    errors = set(vars(resolved("stratacache.node.errors")))
    named = {identifier.rpartition(".")[2] for identifier in identifiers} | errors
    protocols = {"AsyncCache", "Cache", "Fill", "MISS"}
    assert set(stratacache.client.__all__) - protocols <= named


def calls() -> list[tuple[str, list[str]]]:
    """Every call of `stratacache` in a block of code."""
    found = []
    for path in READ:
        for language in ("", "sh"):
            for line in "".join(blocks(path, language)).splitlines():
                call = re.search(r"(?:^|[(' ])stratacache ([a-z].*?)(?:[)'#|>]|$)", line)
                if call and not line.startswith(("helm", "docker", "kubectl")):
                    found.append((path.name, call[1].split()))
    return found


def test_every_command_that_is_shown_exists() -> None:
    """The subcommand, and each of its options."""
    assert len(calls()) > 10
    for page, (name, *words) in calls():
        assert name in COMMANDS, f"{page}: stratacache {name}"
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{page}: stratacache {name} {word}"


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_on_the_pages_is_python_and_imports_what_exists(path: Path) -> None:
    """Each block parses, and what it imports of ours is there."""
    for text in blocks(path, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stratacache"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{path.name}: {node.module}.{alias.name}"


def test_the_first_program_of_the_quickstart_runs(tmp_path: Path) -> None:
    """As a user would paste it into a file."""
    (program, *_) = blocks(DOCS / "quickstart.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "cache").is_dir()


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """mkdocs --strict: every link, anchor and docstring reference. Needs the extra `docs`; skipped without it."""
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")):
        pytest.skip("mkdocs-material and mkdocstrings are not installed: pip install 'stratacache[docs]'")
    if not (ROOT / "build" / "types" / "stratacache").is_dir():
        pytest.skip("build/types is not there: make build/types/stratacache")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cached_map_batches" in (tmp_path / "site" / "api.html").read_text()
