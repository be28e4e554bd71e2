"""Connectors: from a vision tower's features to what the language side takes."""
