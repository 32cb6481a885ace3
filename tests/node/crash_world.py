"""A node that is killed while it works, and the rules for what it may remember afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import Entry

KEYS = [b"%s:%d" % (space, number) for space in (b"docs", b"mail") for number in range(60)]
TAGS = (b"red", b"green", b"blue")
_FORK = multiprocessing.get_context("fork")


def config(directory: Path, mode: WriteMode, queue_bytes: int = 64 << 20) -> NodeConfig:
    return NodeConfig(
        l1_bytes_max=40_000,
        l2_bytes_max=40_000,
        l3_bytes_max=64 << 20,
        data_dir=directory,
        l3_write_mode=mode,
        flush_after_ms=1,
        l3_queue_bytes_max=queue_bytes,
    )


def value_of(key: bytes, number: int) -> bytes:
    """A value that says which put it is of, all over."""
    return (b"%s=%d;" % (key, number)) * (1 + number * 7 % 300)


@dataclass
class Model:
    """For each key the values that a get may give; None is a miss."""

    mode: WriteMode
    queue_bytes: int = 64 << 20
    allowed: dict[bytes, set[int | None]] = field(default_factory=lambda: {key: {None} for key in KEYS})
    tags: dict[bytes, set[bytes]] = field(default_factory=lambda: {key: set() for key in KEYS})

    def apply(self, operation: str, *, acknowledged: bool) -> None:
        """Take note of an operation; one that was not acknowledged may or may not have happened."""
        name, _, rest = operation.partition(" ")
        words = rest.split()
        keep = not acknowledged
        if name == "put":
            key, number, tag = words[0].encode(), int(words[1]), words[2].encode()
            self.allowed[key] = {number} | (self.allowed[key] | {None} if keep else set())
            self.tags[key] = {tag} | (self.tags[key] if keep else set())
            return
        for key in KEYS:
            hit = {
                "remove": words[:1] == [key.decode()],
                "tag": bool(self.tags[key] & {word.encode() for word in words}),
                "space": key.startswith(words[0].encode() + b":") if words else False,
                "clear": True,
            }[name]
            # With an uncertain put between, the tags of what is there are uncertain too.
            certain = len(self.tags[key]) == 1 or name != "tag"
            if hit:
                self.allowed[key] = {None} | (self.allowed[key] if keep or not certain else set())

    def crashed(self) -> None:
        """With write-behind, what was put may be lost; never replaced by what was before."""
        if self.mode is WriteMode.WRITE_BEHIND:
            for key in KEYS:
                self.allowed[key] |= {None}

    def check(self, engine: MultiLevelCache) -> int:
        """Compare with what a node gives; gives the number of hits."""
        hits = 0
        for key in KEYS:
            entry = engine.get(key)
            assert entry is None or isinstance(entry, Entry)
            if entry is None:
                assert None in self.allowed[key], f"{key!r} is lost, expected one of {self.allowed[key]}"
                continue
            number = int(entry.payload.split(b";")[0].split(b"=")[1])
            assert entry.payload == value_of(key, number), f"{key!r} has a value that was never put"
            assert number in self.allowed[key], f"{key!r} is put {number}, allowed is {self.allowed[key]}"
            hits += 1
        return hits


def _work(settings: NodeConfig, seed: int, first: int, log: int) -> None:
    """The writer: says what it does before it does it, and when it was acknowledged."""
    rng = random.Random(seed)
    engine = MultiLevelCache(settings)
    number = first
    while True:
        number += 1
        chance = rng.random()
        key, tag = rng.choice(KEYS), rng.choice(TAGS)
        if chance < 0.85:
            operation = f"put {key.decode()} {number} {tag.decode()}"
        elif chance < 0.93:
            operation = f"remove {key.decode()}"
        elif chance < 0.97:
            operation = f"tag {tag.decode()}"
        elif chance < 0.995:
            operation = f"space {rng.choice(['docs', 'mail'])}"
        else:
            operation = "clear"
        os.write(log, f"{operation}\n".encode())
        if chance < 0.85:
            engine.put(key, value_of(key, number), tags=(tag,))
        elif chance < 0.93:
            engine.remove(key)
        elif chance < 0.97:
            engine.invalidate_tags((tag,))
        elif chance < 0.995:
            engine.invalidate_namespace(operation.split()[1].encode())
        else:
            engine.clear()
        os.write(log, b"ok\n")
        if number % 5 == 0:
            engine.get(rng.choice(KEYS))
            engine.tick()


def run_and_kill(directory: Path, model: Model, seed: int, first: int, moment_s: float) -> int:
    """Let a writer work until it is killed `moment_s` after its first operation; gives the number of operations."""
    reader, writer = os.pipe()
    settings = config(directory, model.mode, model.queue_bytes)
    child = _FORK.Process(target=_work, args=(settings, seed, first, writer))
    child.start()
    os.close(writer)
    assert child.pid is not None
    text = b""
    until = None
    os.set_blocking(reader, False)
    killed = False
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except BlockingIOError:
            part = None
        if part == b"":
            break
        if part:
            text += part
            until = until or time.monotonic() + moment_s
        if until is not None and not killed and time.monotonic() >= until:
            os.kill(child.pid, signal.SIGKILL)
            killed = True
            os.set_blocking(reader, True)
        elif part is None:
            time.sleep(0.0005)
    os.close(reader)
    child.join()
    assert killed, f"the writer ended by itself with {child.exitcode}"
    lines = text.decode().splitlines()
    if not text.endswith(b"\n"):
        lines.pop()
    operations = 0
    for index, line in enumerate(lines):
        if line != "ok":
            operations += 1
            model.apply(line, acknowledged=index + 1 < len(lines))
    model.crashed()
    return operations
