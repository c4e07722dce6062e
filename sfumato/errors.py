"""In: nothing.  Out: the exceptions that a bad file, ours or an image, may cause."""


class FormatError(ValueError):
    """A file breaks FORMAT.md, or does not match the weights it was decoded with.

    No other exception may come from reading a file, whatever its bytes.  The message names the value
    at fault.
    """


class ImageError(ValueError):
    """An image that cannot be read or written; the message names the file and what is wrong with it."""


class HostError(RuntimeError):
    """The program around this package, or its machine, computes otherwise than the format asks for; the
    message says how, and what to do.
    """


class WeightsError(ValueError):
    """Weights that are not there, not ours, or do not fit; the message names the file and what to do."""
