"""Losses: functions of embeddings or logits, free of any family."""
