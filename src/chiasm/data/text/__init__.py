"""Text to learn English from, and tokens ready for a language model."""
