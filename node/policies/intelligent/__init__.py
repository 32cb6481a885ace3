"""INTELLIGENT: sampled eviction whose score function is chosen on line by small shadow caches.

See docs/EVICTION.md for the algorithm, its sources and its figures.
"""

from .policy import IntelligentPolicy

__all__ = ["IntelligentPolicy"]
