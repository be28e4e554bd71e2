"""Metrics: pure functions of answers and references, one file a group."""
