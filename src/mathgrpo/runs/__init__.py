"""What a run writes and shows: folder, record, checkpoint, metrics, display, trackers."""
