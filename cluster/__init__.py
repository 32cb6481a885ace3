"""The cache inside a Ray cluster: shard actors, the coordinator, views, and the command line."""
