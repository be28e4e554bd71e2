"""One file a target of `data convert`; each has a `WRITERS` mapping from names to writers, and nothing lists them."""
