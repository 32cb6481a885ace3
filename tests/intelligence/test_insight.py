"""What a node counts by operation and model, and how long it keeps recipes."""

from __future__ import annotations

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.insight import LABELS_MAX, NOTES_PER_TICK, NOTES_UNDER_LOAD, OTHER, operation_of
from stratacache.node.recipes import RECIPE_BYTES, Recipes, head_of, inputs_of, pack_recipe

DIGEST = b"0123456789abcdef" * 2
KEY = b"docs:embed:" + DIGEST


@pytest.fixture
def node() -> MultiLevelCache:
    """A node of one memory level."""
    return MultiLevelCache(NodeConfig(l1_bytes_max=4 << 20), clock=ManualClock(1_000_000))


def test_hits_misses_and_seconds_are_counted_by_operation_and_model(node: MultiLevelCache) -> None:
    """A miss, a computed put and three hits, one of them in a near cache."""
    assert node.get(KEY) is None
    node.put(KEY, b"v", cost_s=0.25, tags=(b"model:minilm",), codec=2)
    node.get(KEY)
    node.get(KEY)
    node.touch(KEY, 1, 16)
    stats = node.stats()
    expected = {"hits": 2, "near_hits": 1, "computed": 1, "saved_s": 0.75, "computed_s": 0.25}
    assert stats["operations"]["embed"] == {**expected, "misses": 1}
    assert stats["models"]["minilm"] == {**expected, "misses": 0}
    assert stats["hits"] == 2
    assert stats["near_hits"] == 1
    assert stats["namespaces"]["docs"]["saved_s"] == 0.75
    assert stats["namespaces"]["docs"]["near_hits"] == 1
    assert node.insight.saved_s == 0.75


def test_an_entry_of_unknown_cost_saves_no_seconds(node: MultiLevelCache) -> None:
    """Nothing is made up where nobody measured."""
    node.put(KEY, b"v")
    node.get(KEY)
    figures = node.stats()["operations"]["embed"]
    assert (figures["hits"], figures["saved_s"], figures["computed"]) == (1, 0.0, 0)


def test_at_full_load_one_hit_in_eight_stands_for_all(node: MultiLevelCache) -> None:
    """Past the notes of a tick the figures by operation go on from samples, and a woken key is still seen."""
    node.put(KEY, b"v", cost_s=0.25)
    for number in range(NOTES_PER_TICK):
        node.get(b"k%d" % number)
    entry = node.table[KEY]
    node.insight.was_woken(KEY)
    node.insight.hits([entry] * 80)
    figures = node.stats()["operations"]["embed"]
    assert (figures["hits"], figures["saved_s"]) == (80, 20.0)
    assert node.stats()["patterns"]["skipped"] == 80
    assert node.insight.take_woken() == ([KEY], [])


def test_labels_are_bounded(node: MultiLevelCache) -> None:
    """Made-up operations end under one label."""
    for number in range(LABELS_MAX + 50):
        node.get(b"docs:op%d:" % number + DIGEST)
        node.put(b"docs:op%d:" % number + DIGEST, b"v", cost_s=0.5, tags=(b"t%d" % number,))
    operations = node.stats()["operations"]
    assert len(operations) <= LABELS_MAX + 1
    assert operations[OTHER]["misses"] == 50
    assert operations[OTHER]["computed"] == 50


def test_reads_of_too_many_keys_at_once_are_not_all_noted(node: MultiLevelCache) -> None:
    """Between two ticks a bounded number of keys is noted; the others are counted as skipped."""
    for number in range(NOTES_PER_TICK + 10):
        node.get(b"k%d" % number)
    assert node.stats()["patterns"]["skipped"] == 10
    node.tick()
    node.get(b"again")
    assert node.stats()["patterns"]["skipped"] == 10


def test_a_node_under_load_notes_fewer_until_it_has_less_to_do(node: MultiLevelCache) -> None:
    """After a tick with more than can be noted it notes a quarter, until no more is asked than a tick can note."""
    skipped = 0
    for asked, noted in (
        (NOTES_PER_TICK, NOTES_PER_TICK),
        (NOTES_PER_TICK + 1, NOTES_PER_TICK),
        (NOTES_PER_TICK + 1, NOTES_UNDER_LOAD),
        (NOTES_PER_TICK, NOTES_UNDER_LOAD),
        (NOTES_PER_TICK, NOTES_PER_TICK),
    ):
        for number in range(asked):
            node.get(b"k%d" % number)
        skipped += asked - noted
        assert node.stats()["patterns"]["skipped"] == skipped
        node.tick()


@pytest.mark.parametrize(
    ("key", "operation"),
    [
        (KEY, "embed"),
        (b"embed:" + DIGEST, "embed"),
        (b"plain", ""),
        (b"docs:plain", ""),
        (b":" + DIGEST, ""),
        (DIGEST, ""),
    ],
)
def test_the_operation_stands_in_the_key(key: bytes, operation: str) -> None:
    """`[namespace:]operation:digest`; other keys have none."""
    assert operation_of(key) == operation


def test_a_recipe_outlives_its_entry_until_it_is_put_or_invalidated_again(node: MultiLevelCache) -> None:
    """Expiry keeps it, a put or an invalidation that covers it does not."""
    clock = node.clock
    assert isinstance(clock, ManualClock)
    recipe = pack_recipe("fn:embed", 60, b"inputs")
    found = head_of(recipe)
    assert found is not None
    assert (found.loader, found.ttl_s, inputs_of(recipe)) == ("fn:embed", 60, b"inputs")

    def expired_again() -> None:
        node.put(KEY, b"v", expires_ms=node.now_ms() + 1000, metadata=recipe, tags=(b"t",))
        assert not node.recipes.kept
        clock.advance(2000)
        assert node.get(KEY) is None
        assert node.recipes.kept[KEY].recipe == recipe

    expired_again()
    expired_again()
    node.invalidate_keys([KEY])
    assert not node.recipes.kept
    expired_again()
    node.invalidate_tags([b"t"])
    assert not node.recipes.kept
    expired_again()
    node.invalidate_namespace(b"other")
    assert node.recipes.kept
    node.invalidate_namespace(b"docs")
    assert not node.recipes.kept
    expired_again()
    node.clear()
    assert not node.recipes.kept
    assert node.recipes.bytes_used == 0


def test_an_invalidated_entry_leaves_no_recipe(node: MultiLevelCache) -> None:
    """What was asked to be forgotten is forgotten with its inputs."""
    node.put(KEY, b"v", expires_ms=node.now_ms() + 1000, metadata=pack_recipe("fn:embed", 1, b"secret"))
    node.invalidate_keys([KEY])
    node.tick()
    assert not node.recipes.kept


def test_recipes_are_bounded_in_bytes() -> None:
    """The least recently expired one leaves first."""
    clock = ManualClock(1_000_000)
    node = MultiLevelCache(NodeConfig(l1_bytes_max=4 << 20), clock=clock)
    node.recipes = Recipes(bytes_max=10 * (RECIPE_BYTES + 100))
    node.residents.expired = node.recipes.expired
    for number in range(50):
        node.put(b"k%d" % number, b"v", expires_ms=node.now_ms() + 10, metadata=pack_recipe("fn:e", 1, b"i" * 40))
        clock.advance(20)
        node.get(b"k%d" % number)
    assert node.recipes.bytes_used <= node.recipes.bytes_max
    assert b"k49" in node.recipes.kept
    assert b"k0" not in node.recipes.kept
