"""What is built for a runtime: a folder with its files, a manifest, and the proof that it agrees with the graph."""
