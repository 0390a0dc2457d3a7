"""What can be drawn, and its words. Loads no torch."""
