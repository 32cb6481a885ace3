"""The levels of a node, each readable alone: L1 memory, L2 compressed, L3 disk."""
