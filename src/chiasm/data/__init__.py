"""Reading and generating data: readers, packs of real pictures, generated worlds."""
