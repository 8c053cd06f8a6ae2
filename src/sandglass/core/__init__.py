"""Common tools of all parts: errors, files, locks, processes, the machine. Nothing here concerns networks."""
