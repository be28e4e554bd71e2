"""One training loop, and what it needs: schedules, checkpoints, features computed once."""
