"""The reference notebooks' own rewards, faults included: they let a run be compared with those notebooks."""
