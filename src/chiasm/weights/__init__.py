"""Published weights in and out: naming rules, one table per layout, folders, hub, wheels, GGUF, conversion."""
