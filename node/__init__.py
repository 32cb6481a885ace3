"""One process's cache: L1 memory, L2 compressed, L3 disk, and the RESP server in front of them."""
