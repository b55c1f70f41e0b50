"""The rollout engine for CUDA: a decode step as a replayed graph, with sampling and bookkeeping on the device.

Every file also runs eagerly on a CPU, which is how its mathematics is tested.
"""
