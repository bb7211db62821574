"""Models that propose blocks (DSpark, DFlash, plain models, prompt lookup), and the server of their contexts."""
