"""From a specification to recorded samples: the grid, the engine, and what it notes about the machine."""
