"""Files that mypy reads in a test; they are never run."""
