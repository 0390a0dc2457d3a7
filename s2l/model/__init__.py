"""The pipeline adapter, where checkpoints lie, and what fits into memory."""
