"""What the machine can do, measured, and what a step asks of it, counted."""
