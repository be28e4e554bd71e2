"""Parts without family names: attention, masks, positions, norms, MLPs, blocks, the cache, LoRA."""
