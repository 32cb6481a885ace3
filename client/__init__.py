"""The consistent-hash client: routing, near cache, codecs, keys, decorators. Works without Ray."""
