"""Tests of the node engine."""
