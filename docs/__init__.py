"""What users read, and the commands that write those parts of it that must not be written by hand."""
