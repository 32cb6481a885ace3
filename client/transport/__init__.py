"""The shells that carry out what the core decides: blocking sockets, asyncio, and the engine in this process."""
