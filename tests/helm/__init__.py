"""The chart, rendered by real Helm engines and checked against Kubernetes' own schemas."""
