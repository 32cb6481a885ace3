"""Tests of access patterns, merged figures and prefetching: pure decisions, no Ray."""
