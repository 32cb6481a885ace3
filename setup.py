"""Compiles the hot modules of a node with mypyc, where a C compiler is at hand.

They are ordinary typed Python and run as such where they are not compiled: set STRATACACHE_COMPILE=0, or have no
compiler. In two points they must heed that they are compiled: a slice of bytes may not end before it begins, which is
empty in Python and an error in mypyc 2.4; and where mypy takes an attribute for None because it was so before a call
that sets it, compiled code raises TypeError, so it is looked at again in another method.

What is compiled, and why just that: docs/ARCHITECTURE.md. Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
NAMES = ROOT / "build" / "types" / "stratacache"  # the root folders under the names that they are imported by
HOT = {
    "": "below clock engine entry expiry gate groups histogram hot insight leases recipes residents stats",
    "levels/": "compressed memory pending writer",
    "policies/": "base fifo lfu lru ranked ring size_based ttl",
    "policies/intelligent/": "digests evidence ghosts miniature policy residents sample scores shadows stamps",
    "resp/": "batch connection dispatch known lookout output parser put_options readloop",
}


def extensions() -> list[Extension]:
    """The hot modules as C extensions; none where that is not wanted or mypyc is missing."""
    if os.environ.get("STRATACACHE_COMPILE", "1") == "0":
        return []
    try:
        from mypyc.build import mypycify  # noqa: PLC0415 (not there where nothing is to be compiled)
    except ImportError:
        sys.stderr.write("stratacache: without mypyc, so the node runs as plain Python\n")
        return []
    NAMES.mkdir(parents=True, exist_ok=True)
    for name in ("node", "client", "cluster"):
        if not (NAMES / name).exists():
            (NAMES / name).symlink_to(ROOT / name)
    os.chdir(ROOT)
    sources = [f"build/types/stratacache/node/{part}{name}.py" for part, names in HOT.items() for name in names.split()]
    made: list[Extension] = mypycify(
        ["--config-file=pyproject.toml", "--follow-imports=silent", *sources],
        opt_level="3",
        debug_level="0",
        group_name="stratacache.node.compiled",
        target_dir="build/compiled",
    )
    for extension in made:
        extension.optional = True
    return made


class AllOrNone(build_ext):
    """Builds every extension or none.

    One large file holds the code of all, small ones only point into it. A compiler that gives up on that one alone (no
    memory left, a warning of its own under mypyc's -Werror) would leave modules that can't be imported.
    """

    def build_extensions(self) -> None:
        """Build; where one is missing then, all others go."""
        super().build_extensions()
        built = [Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions]
        if all(path.exists() for path in built):
            return
        for path in built:
            path.unlink(missing_ok=True)
        sys.stderr.write("stratacache: not everything could be compiled, so the node runs as plain Python\n")


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": AllOrNone})
