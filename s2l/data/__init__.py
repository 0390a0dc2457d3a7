"""Photos, image sets, domains and the synthetic private set."""
