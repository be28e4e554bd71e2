"""One file per family: wiring, presets, a miniature; and the user-facing `Model`."""
