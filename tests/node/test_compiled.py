"""The hot modules, compiled and as plain Python: the same calls give the same answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from stratacache.node import engine

ROOT = Path(__file__).parents[2]


def tell(*words: str) -> list[str]:
    """How the node ran in a process of its own, and the digest of what it answered."""
    command = [sys.executable, "-m", "tests.node.story", *words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.split()


def test_compiled_and_plain_modules_answer_alike() -> None:
    """Same seed, same calls, every policy: same answers, evictions and numbers."""
    if engine.__file__.endswith(".py"):
        pytest.skip("the hot modules are not compiled here: there is no C compiler, or STRATACACHE_COMPILE is 0")
    (how, digest), (how_plain, digest_plain) = tell(), tell("plain")
    assert (how, how_plain) == ("compiled", "plain")
    assert digest == digest_plain


@pytest.mark.parametrize("good", [True, False])
def test_all_is_compiled_or_nothing(good: bool, tmp_path: Path) -> None:
    """A file that its compiler gives up on takes the others along: what points into it could not be imported."""
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "first.c").write_text("#include <Python.h>\n" if good else "no C at all\n")
    (tmp_path / "second.c").write_text("#include <Python.h>\n")
    script = f"""
import runpy, sys
from setuptools import Extension, setup
AllOrNone = runpy.run_path({str(ROOT / "setup.py")!r})["AllOrNone"]
made = [Extension(name, [name + ".c"], optional=True) for name in ("first", "second")]
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
setup(name="x", ext_modules=made, cmdclass={{"build_ext": AllOrNone}})
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert len(list(tmp_path.glob("*.so"))) == (2 if good else 0)
