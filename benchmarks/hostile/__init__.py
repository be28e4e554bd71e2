"""Hostile requests and loads against a server of our own on the loopback device."""
