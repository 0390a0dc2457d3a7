"""Labs: checkpoints that know their training set. Loads no torch."""
