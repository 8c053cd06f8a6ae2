"""Metrics of the tasks, with intervals."""
