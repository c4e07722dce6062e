"""Whole-program acceptance: edge-case inputs through the command, and the same bits on every machine."""
