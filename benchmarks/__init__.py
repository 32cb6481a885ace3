"""Benchmarks: each is a module with a command line, `python -m benchmarks.NAME --json F`."""
