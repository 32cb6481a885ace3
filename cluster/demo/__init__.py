"""The demonstration: a real AI pipeline on Python's own manual, run through a cache of several shards."""
