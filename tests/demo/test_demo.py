"""The demo: its models compute what they say, and the whole story holds on a short corpus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from stratacache.cluster.demo import models
from stratacache.cluster.demo.corpus import cut, load_chunks

CHUNKS = load_chunks(150)


@pytest.fixture(scope="module")
def fitted() -> models.Models:
    return models.fit(CHUNKS)


def test_documents_are_cut_into_overlapping_windows() -> None:
    """Neighbouring chunks share all but one paragraph, and a short document is one chunk."""
    texts = [chunk.text for chunk in cut("topic", "a\n\nb\n\nc\n\nd")]
    assert texts == ["a\nb\nc", "b\nc\nd"]
    assert [chunk.text for chunk in cut("topic", "only")] == ["only"]


def test_the_manual_repeats_itself() -> None:
    """The corpus has real repeats: that is what a cache is for."""
    texts = [chunk.text for chunk in load_chunks()]
    assert len(texts) - len(set(texts)) > 200


def test_embeddings_are_unit_vectors_and_follow_meaning(fitted: models.Models) -> None:
    """A chunk lies nearer to its neighbour than to a chunk of another document."""
    first, neighbour, stranger = (fitted.embed(CHUNKS[index].text) for index in (0, 1, -1))
    assert first.dtype == np.float32
    assert first.shape == (models.DIMENSIONS,)
    assert np.isclose(np.linalg.norm(first), 1.0)
    assert first @ neighbour > first @ stranger


def test_most_chunks_are_classified_as_their_topic(fitted: models.Models) -> None:
    """The nearest centroid is the right one far more often than chance."""
    right = sum(fitted.classify(chunk.text)["topic"] == chunk.topic for chunk in CHUNKS)
    assert right / len(CHUNKS) > 0.5


def test_a_summary_is_the_central_sentences_in_reading_order(fitted: models.Models) -> None:
    """Every sentence of the summary stands in the text, and the odd one out is not chosen."""
    text = (
        "A cache keeps the results of slow functions. A cache forgets the results of old functions. "
        "Penguins swim. The results of slow functions stay in the cache."
    )
    summary = fitted.summarize(text)
    assert "Penguins" not in summary
    parts = summary.split(". ")
    assert all(part.rstrip(".") in text for part in parts)
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)


def test_text_rank_prefers_what_everything_points_to() -> None:
    """On a star, the centre gets the greatest weight, and the weights add up to one."""
    star = np.zeros((4, 4))
    star[0, 1:] = star[1:, 0] = 1.0
    rank = models.text_rank(star)
    assert rank.argmax() == 0
    assert np.isclose(rank.sum(), 1.0)


def test_key_phrases_stand_in_the_text(fitted: models.Models) -> None:
    """Phrases come from the text, nearest first."""
    text = CHUNKS[0].text
    phrases = fitted.extract(text)
    assert 0 < len(phrases) <= models.PHRASES
    scores = [score for _, score in phrases]
    assert scores == sorted(scores, reverse=True)
    assert all(word in text.lower() for phrase, _ in phrases for word in phrase.split())


@pytest.mark.ray
@pytest.mark.xdist_group("own-ray")
@pytest.mark.timeout(240)
def test_the_whole_story_holds(tmp_path: Path, own_ray: dict[str, str]) -> None:
    """Cold, warm, a new model release, a killed shard: what the demo promises is what it sees."""
    target = tmp_path / "out.json"
    command = [sys.executable, "-m", "stratacache.cluster", "demo", "--chunks", "150", "--json", str(target)]
    done = subprocess.run(command, env=own_ray, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(target.read_text())
    assert found["wrong_results"] == 0
    assert found["stale_after_invalidation"] == 0
    assert found["invalidated"] == found["recomputed_after_invalidation"] == found["distinct_chunks"]
    assert found["recomputed_of_other_models"] == 0
    assert found["survived_shard_kill"] is True
    assert found["recomputed_after_kill"] > 0
    assert 0 < found["refreshed_ahead"] <= found["scheduled_reads"]
    assert set(found["shards"]) == {"shard-0", "shard-1", "shard-2"}
    assert sum(shard["keys"] for shard in found["shards"].values()) == 4 * found["distinct_chunks"]
    assert found["hits"] + found["misses"] == 2 * 4 * found["chunks"]


def test_an_unknown_model_is_refused() -> None:
    """A wrong option is a clear line and exit status 2, before anything is started."""
    command = [sys.executable, "-m", "stratacache.cluster", "demo", "--model", "gpt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "lsa" in done.stderr
