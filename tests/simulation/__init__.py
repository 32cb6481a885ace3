"""The whole cluster in one thread: real decisions of clients, shards and coordinator, one seed, an oracle."""
