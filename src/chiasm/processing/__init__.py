"""From messages, pictures and text to a `Batch`: pure functions, no model."""
