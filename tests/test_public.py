"""What the packages export: documented, sorted, cheap to import, the same for sync and async, and picklable errors."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys

import pytest

from stratacache.client import AsyncCacheClient, CacheClient
from stratacache.client.base import AsyncCache, Cache
from stratacache.node import errors

IMPORT_US_MAX = 300_000
PUBLIC_MODULES = ["stratacache.client", "stratacache.client.strategies", "stratacache.cluster"]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_everything_exported_is_there_and_documented(name: str) -> None:
    """`__all__` names what exists, each with a docstring of its own where it is ours."""
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        thing = getattr(module, exported)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{exported} has no docstring"


def public_methods(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}


def test_sync_and_async_clients_have_the_same_methods() -> None:
    """What one can do, the other can: with the same parameters."""
    for blocking, asynchronous in [(Cache, AsyncCache), (CacheClient, AsyncCacheClient)]:
        assert public_methods(blocking) == public_methods(asynchronous)
        for name in public_methods(Cache):
            ours = list(inspect.signature(getattr(blocking, name)).parameters)
            theirs = list(inspect.signature(getattr(asynchronous, name)).parameters)
            assert ours == theirs, name


def test_importing_the_client_is_cheap() -> None:
    """No Ray, no NumPy, no event loop, and far below the limit in time."""
    script = "import sys, stratacache.client; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    command = [sys.executable, "-X", "importtime", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not {"ray", "numpy", "asyncio", "uvloop", "lmdb"} & set(done.stdout.split())
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("stratacache.client")
    assert int(last.split("|")[1]) < IMPORT_US_MAX


def error_classes() -> list[type[errors.CacheError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [value for value in found if issubclass(value, errors.CacheError)]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind: type[errors.CacheError]) -> None:
    """Errors cross Ray: type, message and fields come back."""
    made = (
        kind("tag 'a'", ("shard-1",)) if issubclass(kind, errors.InvalidationIncompleteError) else kind("what, way out")
    )
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is kind
    assert str(back) == str(made)
    assert vars(back) == vars(made)
