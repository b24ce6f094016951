"""Treatment: what is done to chosen units, to the memory of the optimizer, and its proof."""
