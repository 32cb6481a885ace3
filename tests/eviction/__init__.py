"""Tests of INTELLIGENT and of the simulator that judges it."""
