"""What every part uses: errors, files, locks, processes, the machine. It knows nothing of networks."""
