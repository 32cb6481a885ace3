"""Tests of the client: core, transports, near cache, keys, codecs, decorator."""
