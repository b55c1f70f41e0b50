"""A step, captured once for each shape and replayed: hundreds of kernel launches become one."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from mathgrpo.errors import first_line


class StepGraphs:
    """Captured steps by shape, in one shared memory pool.

    The first call of a shape runs the step as it is: that is the warm-up a capture needs, and nothing is computed
    twice. The second captures it. Graphs may share memory because one runs at a time and nothing but the tensors at
    fixed addresses is read after it.

    Attributes:
        error: why a capture failed, or "".
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._warm: set[Hashable] = set()
        self._pool = torch.cuda.graph_pool_handle() if enabled else None
        self.error = ""

    @property
    def num_captured(self) -> int:
        """How many shapes have been captured."""
        return len(self._graphs)

    def run(self, shape: Hashable, step: Callable[[], None]) -> None:
        """Run the step of this shape."""
        if not self._enabled:
            return step()
        graph = self._graphs.get(shape)
        if graph is None and shape not in self._warm:
            self._warm.add(shape)
            return step()
        if graph is None:
            graph = self._try_capture(shape, step)
        return graph.replay() if graph is not None else step()

    def forget(self) -> None:
        """Drop every graph: an address has changed."""
        self._graphs.clear()
        self._warm.clear()
        if self._enabled:
            self._pool = torch.cuda.graph_pool_handle()

    def _try_capture(self, shape: Hashable, step: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """Return the captured step; a capture that fails ran nothing, so from then on steps run as they are."""
        try:
            self._graphs[shape] = self._capture(step)
        except RuntimeError as error:
            # A step that raises breaks the capture; then its end raises too, and hides why.
            self._enabled, self.error = False, first_line(error.__context__ or error)
            return None
        return self._graphs[shape]

    def _capture(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record the step without running it.

        Mode thread_local: other threads (a tracker, a data loader) may use CUDA meanwhile.
        """
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(stream)  # a capture that cannot be ended leaves its own stream in place
        return graph
