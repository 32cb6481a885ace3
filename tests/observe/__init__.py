"""Metrics, their names, the dashboard, and the commands that show figures."""
