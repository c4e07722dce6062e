"""How the weights came to be.  Imported by nothing in the package; imports nothing that only coding needs."""
