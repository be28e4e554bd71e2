"""Types and protocols that every folder speaks: nothing here imports torch at module level."""
