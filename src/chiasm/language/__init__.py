"""Language towers: token ids or embeddings in, hidden states, logits or one vector out."""
