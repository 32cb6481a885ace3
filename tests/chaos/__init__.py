"""Chaos: a real cluster on several raylets, real load from several processes, processes killed and stopped under it.

`python -m tests.chaos --seconds 60 --seed 0`, or `make chaos SECONDS=600`. Exit status 1 when anything wrong was read.
"""
