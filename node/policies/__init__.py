"""Eviction policies, one leaf module each."""
