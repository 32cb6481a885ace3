"""Sequences of commands that must be answered alike by a real redis-server and by the node, by subject in scenarios/.

`# name` begins a scenario. A line is split at spaces; `""` is an empty word, XLONG and YLONG are long ones, `\\x00` and
the like are bytes. Lines that begin with `~` answer with a number that may differ a little (time passes); with `?` only
the type of the reply is compared.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def _load() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted((FOLDER / "scenarios").glob("*.txt")):
        for text in path.read_text().split("# ")[1:]:
            name, *lines = text.strip().splitlines()
            assert name not in found, f"{path.name} has a second scenario {name!r}"
            found[name] = lines
    return found


SCENARIOS = _load()

STANDARD = frozenset((FOLDER / "standard_commands.txt").read_text().split())
"""The standard commands that docs/PROTOCOL.md promises. A test holds that each of them stands in a scenario."""
