"""Pillow's image in, .sfu file out; and back.  Importing this module teaches Pillow the format.

    sfumato.pillow.register()                    # the same, for those who would rather call than import
    Image.open("a.sfu").thumbnail((128, 128))    # lazy: size and mode come without decoding
    im.save("b.sfu", quality=40)                 # 0 (smallest) .. 100, as Pillow counts; 50 if not given

`save` also takes model, seed, lossless_if_smaller and few_colours, as `sfumato.encode` does, and exif,
icc_profile, xmp and dpi as Pillow's own formats do.  A file holds its pixels upright: where the exif that is
given says otherwise they are turned, and it is set to 1; without one pixels are written as they are.  An
opened file has `info["quality"]` and `info["model"]`, and what came with the image under Pillow's names.
The networks are loaded when pixels are asked for or written.

Errors are those of Pillow's formats: UnidentifiedImageError for what does not begin as a file of this
version, OSError for a file that is cut short, damaged or of unknown weights.  With
ImageFile.LOAD_TRUNCATED_IMAGES a file that is cut short shows what its whole sections hold, and is black
before the first of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import IO, Any, final

from PIL import Image, ImageFile

from sfumato import DEFAULT_MODEL, container, image, metadata
from sfumato.errors import FormatError
from sfumato.tiles import padded_pixels

FORMAT = "SFU"
EXTENSION = ".sfu"
MIME = "image/x-sfumato"
EXTRAS = {"icc_profile": "icc", "exif": "exif", "xmp": "xmp", "dpi": "dpi"}
"""Pillow's names of what comes with an image, and ours."""
DRAFTS = ((4, 2), (2, 3))
"""(reduction, chunks): a draft so many times smaller is made from the first chunks only."""


@final
class SfumatoImageFile(ImageFile.ImageFile):
    """An opened file; Pillow calls what is overridden here."""

    format = FORMAT
    format_description = "sfumato image"

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        try:
            file = container.unpack(data[: container.HEADER_MAX], partial=True)
        except FormatError as error:
            raise SyntaxError(str(error)) from error  # Pillow's word for: not this format
        with contextlib.suppress(FormatError):  # what is wrong further on is an error when it is needed
            file = container.unpack(data, partial=True)
        header = file.header
        pixels, limit = padded_pixels(header.height, header.width), _limit()
        if limit is not None and pixels > limit:
            size = f"{header.width}x{header.height} pixels, {pixels} when padded"
            raise Image.DecompressionBombError(f"{size}, are more than {limit}: twice Image.MAX_IMAGE_PIXELS")
        self._size = header.width, header.height
        self._mode = ("L" if header.grey else "RGB") + ("" if file.alpha is None else "A")
        extras = metadata.fields(file.metadata)
        self.info |= {name: extras[kind] for name, kind in EXTRAS.items() if extras.get(kind)}
        self.info["quality"] = round(100 * header.q / 255, 1)
        self.info["model"] = header.model_name
        self._plan(None)

    def _plan(self, chunks: int | None) -> None:
        self.tile = [ImageFile._Tile("sfumato", (0, 0, *self._size), 0, (chunks,))]

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """For an image that is scaled down anyway: leave out the chunks that would not be seen.

        The size stays; loading takes about a quarter less time.  `thumbnail` calls it.  None if the
        reduction is too small.
        """
        if size is None or not self.tile:
            return None
        reduction = min(self.width / max(1, size[0]), self.height / max(1, size[1]))
        for least, chunks in DRAFTS:
            if reduction >= least:
                self._plan(chunks)
                return self.mode, (0, 0, self.width, self.height)
        return None

    def verify(self) -> None:
        """OSError unless the file is whole: header, lengths, metadata.  Symbols are checked by loading."""
        assert self.fp is not None
        self.fp.seek(0)
        try:
            container.unpack(self.fp.read())
        except FormatError as error:
            raise OSError(str(error)) from error
        super().verify()


@final
class SfumatoDecoder(ImageFile.PyDecoder):
    """Fills an image from a file, or from the bytes that `ImageFile.Parser` has collected so far."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Pillow's contract: (bytes used, error); -1 bytes: all is done, 0: come back with more."""
        data = bytes(buffer) if self.fd is None else self.fd.read()
        parsing = self.fd is None
        truncated = ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            file = container.unpack(data, partial=True)
            if parsing and not file.complete:
                return 0, 0
            if truncated and not file.sections:
                return -1, 0
            from sfumato.api import decode

            pixels = decode(
                data, keep_profile=True, partial=truncated, chunks=self.args[0], max_pixels=_limit()
            )
        except FormatError as error:
            raise OSError(str(error)) from error
        self.set_as_raw(pixels.tobytes())
        return -1, 0


def _limit() -> int | None:
    """Pixels, padding included, from which on Pillow refuses to open a file; None for no limit."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from sfumato.api import encode

    options = im.encoderinfo
    quality = options.get("quality", 50)
    if not isinstance(quality, int | float) or not 0 <= quality <= 100:
        raise ValueError(f"quality is {quality!r}, not in 0..100")
    plain = im.copy()  # one frame, without the metadata that would turn it
    plain.info = {key: value for key, value in im.info.items() if key in ("transparency", "icc_profile")}
    exif = options.get("exif") or b""
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    try:
        image_data = image.load(plain)
        icc = options.get("icc_profile", image_data.icc) if image_data.pixels.ndim == 3 else None
        exif, xmp = exif.removeprefix(image.EXIF_PREFIX), options.get("xmp") or None
        image_data = replace(image_data, icc=icc or None, exif=exif or None, xmp=xmp)
        image_data = replace(image.upright(image_data), dpi=_dpi(options.get("dpi")))
        data = encode(
            image_data,
            q=quality / 100,
            seed=options.get("seed"),
            lossless_if_smaller=bool(options.get("lossless_if_smaller", False)),
            few_colours=bool(options.get("few_colours", True)),
            model=options.get("model", DEFAULT_MODEL),
        )
    except image.ImageError as error:
        raise OSError(f"cannot write mode {im.mode} as {FORMAT}: {error}") from error
    fp.write(data)


def _dpi(given: Any) -> tuple[float, float] | None:
    """Both sides above 0, or None."""
    try:
        x, y = (float(side) for side in given)
    except (TypeError, ValueError):
        return None
    return (x, y) if 0 < x < 1e5 and 0 < y < 1e5 else None


def register() -> None:
    """Teaches Pillow the format, as importing this module does; again and again is no harm."""
    Image.register_open(FORMAT, SfumatoImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)
    Image.register_decoder("sfumato", SfumatoDecoder)


register()
