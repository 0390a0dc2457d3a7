"""How a lab is made: recipe, networks, data and training."""
