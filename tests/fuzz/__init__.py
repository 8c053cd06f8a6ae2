"""Fuzzing of every reader of a file that somebody else made; docs/security.md says how to run it."""
