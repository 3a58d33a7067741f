"""Files that an environment carries: they run on the device, by its Python, and import the standard library only."""
