"""Does prefetching pay? Refresh-ahead and wake on workloads and traces, under simulated time."""
