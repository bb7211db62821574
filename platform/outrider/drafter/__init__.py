"""DSpark as a model that proposes a block, and the server that holds its context."""
