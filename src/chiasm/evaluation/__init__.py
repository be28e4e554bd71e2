"""Evaluation: protocols, metrics, controls, statistics."""
