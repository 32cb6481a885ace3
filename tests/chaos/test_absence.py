"""The short share of the absence run: each round with a shard that is away for a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.client import CacheClient
from stratacache.cluster import ClusterHandle
from tests.chaos.absence import ROUNDS, absence, cluster_with_disks, expected

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

Disks = tuple[ClusterHandle, CacheClient, Path]


@pytest.fixture(scope="module")
def disks(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """One cluster for all rounds."""
    data_dir = tmp_path_factory.mktemp("absence")
    with cluster_with_disks(data_dir) as (handle, cache):
        yield handle, cache, data_dir


@pytest.mark.parametrize("kind", ROUNDS)
def test_a_shard_that_was_away_comes_back_with_nothing_stale(disks: Disks, kind: str) -> None:
    """1,000 tags and a key invalidated meanwhile: what it kept is what nobody invalidated, or nothing without a log."""
    handle, cache, data_dir = disks
    report = absence(handle, cache, data_dir, kind, 1.0)
    assert expected(kind, report), report
    assert report["reads_of_invalidated_keys"] >= 2_000


def test_what_is_not_as_promised_is_seen() -> None:
    """A stale value, a disk that came back cold with a whole log, one that came back warm without: each fails."""
    good = {"stale": [], "kept_by_others": "5 of 5", "kept_on_its_disk": "3 of 3"}
    assert expected("plain", good)
    assert not expected("plain", {**good, "stale": ["a gave 1"]})
    assert not expected("coordinator killed", {**good, "kept_on_its_disk": "0 of 3"})
    assert not expected("log overflowed", good)
    assert expected("log overflowed", {**good, "kept_on_its_disk": "0 of 3"})
    assert not expected("plain", {**good, "kept_by_others": "4 of 5"})
