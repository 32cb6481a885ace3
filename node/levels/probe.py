"""Walks an L3 file in a process of its own: LMDB trusts its pages, and a damaged one may crash whoever reads it.

Run as `python -m stratacache.node.levels.probe FILE BYTES_MAX`; prints `transaction versions count` when all is well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .store import RecordStore


def main() -> int:
    """Walk the file that the command line names."""
    store = RecordStore(Path(sys.argv[1]), int(sys.argv[2]), sync=False, side=None)
    stamp, _ = store.check()
    sys.stdout.write(f"{stamp.txn} {stamp.versions} {stamp.count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
