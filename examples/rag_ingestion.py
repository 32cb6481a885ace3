"""Ingestion for retrieval: chunks are embedded in batches, and leave the cache with their document or their model."""

from __future__ import annotations

import hashlib

import numpy as np
import ray

from stratacache.client import AIOperation, cached_batch, connect
from stratacache.cluster import start

DOCUMENTS = {f"doc-{doc}": "".join(f"Paragraph {line} of {doc}. " for line in range(30)) for doc in range(6)}


@cached_batch(
    operation=AIOperation.EMBED,
    tags=["doc:{chunks[doc]}", "model:{model}"],
)
def embed(chunks: list[dict[str, str]], *, model: str) -> list[np.ndarray]:
    """Called with the chunks that nobody has embedded yet; put your model here."""
    print(f"  embedding {len(chunks)} chunks with {model}")
    seeds = [int.from_bytes(hashlib.sha256((model + chunk["text"]).encode()).digest()[:4], "big") for chunk in chunks]
    return [np.random.default_rng(seed).random(384, dtype=np.float32) for seed in seeds]


def chunks_of(name: str, text: str, size: int = 120) -> list[dict[str, str]]:
    """The chunks of a document, each with the document that it belongs to."""
    return [{"doc": name, "text": text[at : at + size]} for at in range(0, len(text), size)]


def ingest(model: str) -> np.ndarray:
    """All vectors of all documents."""
    chunks = [chunk for name, text in DOCUMENTS.items() for chunk in chunks_of(name, text)]
    return np.stack(embed(chunks, model=model))


def main() -> None:
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    with start(shards=2), connect() as cache:
        print("first run")
        vectors = ingest("minilm-1")
        print("second run: nothing to embed")
        assert np.array_equal(ingest("minilm-1"), vectors)

        # A document was corrected: its old chunks go, and only its new ones are embedded.
        DOCUMENTS["doc-3"] = DOCUMENTS["doc-3"].replace("Paragraph", "Rewritten")
        print(f"doc-3 changed: {cache.invalidate_tags(['doc:doc-3'])} chunks removed")
        ingest("minilm-1")

        # A new model: both are kept side by side until the old one is taken out of service.
        print("a new model")
        ingest("minilm-2")
        print(f"the old model's results: {cache.invalidate_tags(['model:minilm-1'])} removed")


if __name__ == "__main__":
    main()
