"""sfumato: a perceptual image codec.  A picture becomes a small file and comes back sharp.

import sfumato
data = sfumato.encode("photo.png", q=0.4)     # bytes of a .sfu file
picture = sfumato.decode(data)                # uint8 [H, W, 3]; [H, W] if grey
data = sfumato.encode_to("photo.png", sfumato.Bytes(20_000))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.codec import Codec as Codec
    from sfumato.codec import Crop as Crop
    from sfumato.codec import decode as decode
    from sfumato.codec import decode_picture as decode_picture
    from sfumato.codec import encode as encode
    from sfumato.codec import load as load
    from sfumato.container import Header as Header
    from sfumato.errors import FormatError as FormatError
    from sfumato.errors import ImageError as ImageError
    from sfumato.errors import WeightsError as WeightsError
    from sfumato.image import Picture as Picture
    from sfumato.stream import Reader as Reader
    from sfumato.target import LPIPS as LPIPS
    from sfumato.target import PSNR as PSNR
    from sfumato.target import Bytes as Bytes
    from sfumato.target import Distance as Distance
    from sfumato.target import Rate as Rate
    from sfumato.target import TargetError as TargetError
    from sfumato.target import encode_to as encode_to

__version__ = "0.2.0.dev0"
DEFAULT_MODEL = "small"

# Loaded on first use (PEP 562), so that what needs no pixels loads no networks.
_HOME = {
    "Codec": "codec",
    "Crop": "codec",
    "decode": "codec",
    "decode_picture": "codec",
    "encode": "codec",
    "load": "codec",
    "Header": "container",
    "FormatError": "errors",
    "ImageError": "errors",
    "Picture": "image",
    "WeightsError": "errors",
    "Reader": "stream",
    "LPIPS": "target",
    "PSNR": "target",
    "Bytes": "target",
    "Distance": "target",
    "Rate": "target",
    "TargetError": "target",
    "encode_to": "target",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
