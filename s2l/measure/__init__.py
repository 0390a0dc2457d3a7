"""Statistics: intervals, metrics, distances, extraction and the controls."""
