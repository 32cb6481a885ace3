"""What the client decides, without a socket: routing, retries, circuits, fills, invalidations, the near cache's gate.

An operation is a generator that yields effects (`effects.py`) and is sent their outcomes; the blocking and the asyncio
shell run the same generators, so that every decision stands once.
"""
