"""The generated world's tasks: each makes one sample from a director's choices."""
