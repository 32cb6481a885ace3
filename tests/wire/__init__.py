"""Tests of the wire: protocol, commands, limits, real clients."""
