"""Vision towers: pixels in, features or one vector out. Video is frames through them."""
