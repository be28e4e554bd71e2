"""Generated pictures with exact ground truth; every sample is a pure function of (seed, split, index)."""
