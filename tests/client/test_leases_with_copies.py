"""get_or_compute while the shard that gives the leases is silent, driven without sockets."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from stratacache.client.core.effects import Call, Compute, Exchange, Operation, ShardFailure
from stratacache.client.core.operations import Operations
from stratacache.client.core.state import Core
from stratacache.client.options import ClientOptions
from stratacache.client.view import ShardInfo, View


def core(replicas: int) -> Core:
    made = Core(
        ClientOptions(address="strata://a:1"), monotonic=time.monotonic, elapsed=time.monotonic, random=Random(1)
    )
    shards = tuple(ShardInfo(id=name, host=name, port=1) for name in ("a", "b"))
    made.adopt(View(epoch=1, shards=shards, replicas=replicas))
    return made


def run(operation: Operation[Any], answers: dict[str, dict[bytes, Any]]) -> Any:
    """Carry an operation out: shards answer what the table says for a command, and are silent where it says nothing."""

    def outcome(call: Call) -> Any:
        replies = [answers[call.shard.id].get(command[0]) for command in call.commands]
        if None in replies:
            return ShardFailure(call.shard.id, "silent", sent=True, timed_out=True)
        return replies

    try:
        effect = operation.send(None)
        while True:
            if isinstance(effect, Exchange):
                effect = operation.send([outcome(call) for call in effect.calls])
            elif isinstance(effect, Compute):
                effect = operation.send((effect.function(*effect.arguments), 0.1))
            else:
                effect = operation.send(None)
    except StopIteration as stop:
        return stop.value


@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_another_owner_has_is_not_computed(many: bool, replicas: int) -> None:
    """The first owner is silent: the second one's copy is the answer; without copies the function runs, once."""
    state = core(replicas)
    operations = Operations(state, "default", strict=False)
    first = state.ring.primary(b"k").id
    other = {"a": "b", "b": "a"}[first]
    answers = {first: {}, other: {b"SC.GET": [1, b"copy"]}}
    options = operations.fill_options(None, (), None, "auto", 0.0)
    computed: list[str] = []

    def compute(keys: Any = None) -> Any:
        computed.append("k")
        return "new" if keys is None else ["new" for _ in keys]

    if many:
        value = run(operations.get_or_compute_many(["k"], compute, options, None), answers)["k"]
    else:
        value = run(operations.compute_alone(b"k", compute, options), answers)
    assert (value, computed) == (("copy", []) if replicas == 2 else ("new", ["k"]))
    assert state.counters.as_dict()["failures"] == (
        {} if replicas == 2 else {"get_or_compute_many" if many else "get_or_compute": 1}
    )
