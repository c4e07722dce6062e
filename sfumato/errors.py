"""In: nothing.  Out: the one exception that a bad file may cause."""


class FormatError(ValueError):
    """A file breaks FORMAT.md, or does not match the weights it was decoded with.

    No other exception may come from reading a file, whatever its bytes.  The message names the value
    at fault.
    """
