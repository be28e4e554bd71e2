"""The picture index: vectors of one's own pictures on disk, found again by words or by another picture."""
