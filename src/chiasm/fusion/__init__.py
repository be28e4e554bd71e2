"""Fusions: how a vision tower, a connector and a language tower become one model."""
