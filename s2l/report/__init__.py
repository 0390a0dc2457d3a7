"""A finished run: its record, what it says, its files."""
