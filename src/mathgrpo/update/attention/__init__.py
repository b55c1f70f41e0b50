"""Packed attention of the update's own modules: the layouts, the kernels, the faster of them."""
