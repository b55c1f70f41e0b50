"""The compiled CPU decoder's C sources, and how they become a loaded library."""

from mathgrpo.rollout.c.library import KernelError, Kernels, load_kernels

__all__ = ["KernelError", "Kernels", "load_kernels"]
