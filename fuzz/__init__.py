"""Fuzz targets: bytes that are not ours in; nothing but `FormatError` or a picture may come out."""
