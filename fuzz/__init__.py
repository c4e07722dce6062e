"""Fuzz targets: bytes that are not ours in; nothing but `FormatError` or an image may come out."""
