"""The demo's corpus: the text of Python's manual, which ships with the interpreter, cut as for retrieval.

The manual's topics share whole sections (`if` stands again in `compound`), so overlapping documents bring real repeats:
about one chunk in six has been seen before. Nothing here is random; the same interpreter gives the same chunks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PARAGRAPHS_PER_CHUNK = 3
STRIDE = 1


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One piece of a document. `topic` is the document it was cut from; equal texts may come from several topics."""

    topic: str
    text: str


def manual_topics() -> dict[str, str]:
    """The manual's topics by name, as `help("topics")` shows them."""
    from pydoc_data.topics import topics

    return dict(topics)


def cut(topic: str, text: str) -> list[Chunk]:
    """Cut a document into overlapping windows of paragraphs, one paragraph apart."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    paragraphs = [part for part in paragraphs if part]
    windows = max(1, len(paragraphs) - PARAGRAPHS_PER_CHUNK + 1)
    return [
        Chunk(topic=topic, text="\n".join(paragraphs[start : start + PARAGRAPHS_PER_CHUNK]))
        for start in range(0, windows, STRIDE)
    ]


def load_chunks(chunks_max: int | None = None) -> list[Chunk]:
    """Every chunk of the manual in reading order, repeats included; the first `chunks_max` of them when given."""
    chunks = [chunk for topic, text in sorted(manual_topics().items()) for chunk in cut(topic, text)]
    return chunks[:chunks_max]
