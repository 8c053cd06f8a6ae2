"""What a graph is: reading and writing, running, layers, shapes, and the work that they are."""
