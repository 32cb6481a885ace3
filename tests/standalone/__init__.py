"""The chart in its standalone mode: what its rendered manifests would start really runs."""
