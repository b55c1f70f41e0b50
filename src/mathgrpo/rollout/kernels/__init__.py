"""The compiled CPU decoder's C sources, and how they become a loaded library."""

from mathgrpo.rollout.kernels.build import KernelError
from mathgrpo.rollout.kernels.library import Kernels, load_kernels

__all__ = ["KernelError", "Kernels", "load_kernels"]
