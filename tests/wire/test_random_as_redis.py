"""Random commands, pipelined in random chunks, get the replies of a real redis-server, byte for byte.

`python -m tests.wire.test_random_as_redis FIRST LAST` runs as many seeds as wanted; a failure names its seed.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.wire.comparing import is_same
from tests.wire.processes import running_node, running_redis
from tests.wire.random_commands import sequence
from tests.wire.raw import Raw, request

pytestmark = pytest.mark.server

SEEDS = 120


def replies_of(port: int, commands: list[list[bytes]], rng: Random) -> list[Any]:
    """Everything that a server answers on one connection."""
    stream = b"".join(request(*words) for words in commands) + request("QUIT")
    cuts = sorted({0, len(stream), *[rng.randrange(len(stream)) for _ in range(rng.choice([0, 1, 5, 50]))]})
    with Raw(port) as cleaner:
        cleaner.run("FLUSHALL")
    replies = []
    with Raw(port) as client:
        for start, end in pairwise(cuts):
            client.send(stream[start:end])
        try:
            while True:
                replies.append(client.read())
        except ConnectionError:
            return replies


def difference(seed: int, node_port: int, redis_port: int) -> str | None:
    """The first reply that differs in a sequence, or None."""
    commands = sequence(Random(seed))
    ours = replies_of(node_port, commands, Random(seed))
    theirs = replies_of(redis_port, commands, Random(seed))
    for index, pair in enumerate(zip(ours, theirs, strict=False)):
        if not is_same(*pair):
            near = b" | ".join(b" ".join(words)[:60] for words in commands[max(0, index - 3) : index + 1])
            return f"seed {seed}, reply {index}, about {near!r}: {pair[0]!r:.200}, redis has {pair[1]!r:.200}"
    return None if len(ours) == len(theirs) else f"seed {seed}: {len(ours)} replies, redis has {len(theirs)}"


def test_random_commands_are_answered_as_by_redis(node_port: int, redis_port: int) -> None:
    """A few thousand commands of some hundred sequences: the same replies, errors and pushes in the same order."""
    wrong = [difference(seed, node_port, redis_port) for seed in range(SEEDS)]
    assert not any(wrong), "\n".join(filter(None, wrong))


def main() -> None:
    """Run a range of seeds."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as redis, running_node() as (_, node):
        wrong = [found for seed in range(first, last) if (found := difference(seed, node, redis)) is not None]
    sys.stdout.write("\n".join([*wrong, f"{last - first} sequences, {len(wrong)} differ"]) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
