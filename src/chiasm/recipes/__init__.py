"""Recipes: runs as Python functions, each reproducible with one command."""
