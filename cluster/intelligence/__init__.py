"""What the coordinator makes of what the shards see: merged patterns, prefetching that pays, and the efficiency report.

Pure decisions over handed-in times; cluster/intelligence_shell.py pulls, starts tasks and sends commands.
"""
