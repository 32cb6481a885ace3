"""Keys, codecs, decorators, strategies and the AI interface of the client."""
