"""`python -m stratacache.cluster` is the command line."""

from __future__ import annotations

from stratacache.cluster.cli import main

if __name__ == "__main__":
    main()
