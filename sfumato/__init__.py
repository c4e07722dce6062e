"""sfumato: a perceptual image codec.  An image becomes a small file and comes back sharp.

import sfumato
data = sfumato.encode("photo.png", q=0.4)     # bytes of a .sfu file
image = sfumato.decode(data)                  # uint8 [H, W, 3]; [H, W] if grey
data = sfumato.encode_to("photo.png", sfumato.TargetBytes(20_000))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.api import SfuFile as SfuFile
    from sfumato.api import decode as decode
    from sfumato.api import decode_float as decode_float
    from sfumato.api import decode_image as decode_image
    from sfumato.api import encode as encode
    from sfumato.api import open as open
    from sfumato.codec import Codec as Codec
    from sfumato.codec import load as load
    from sfumato.container import Header as Header
    from sfumato.decode_options import Crop as Crop
    from sfumato.decode_options import DecodeOptions as DecodeOptions
    from sfumato.errors import FormatError as FormatError
    from sfumato.errors import ImageError as ImageError
    from sfumato.errors import WeightsError as WeightsError
    from sfumato.image_data import ImageData as ImageData
    from sfumato.progressive import ProgressiveDecoder as ProgressiveDecoder
    from sfumato.rate_control import Target as Target
    from sfumato.rate_control import TargetBpp as TargetBpp
    from sfumato.rate_control import TargetBytes as TargetBytes
    from sfumato.rate_control import TargetDistance as TargetDistance
    from sfumato.rate_control import TargetError as TargetError
    from sfumato.rate_control import TargetLPIPS as TargetLPIPS
    from sfumato.rate_control import TargetPSNR as TargetPSNR
    from sfumato.rate_control import encode_to as encode_to

__version__ = "0.2.0"
DEFAULT_MODEL = "small"

# Loaded on first use (PEP 562), so that what needs no pixels loads no networks.
_HOME = {
    "SfuFile": "api",
    "decode": "api",
    "decode_float": "api",
    "decode_image": "api",
    "encode": "api",
    "open": "api",
    "Codec": "codec",
    "load": "codec",
    "Header": "container",
    "Crop": "decode_options",
    "DecodeOptions": "decode_options",
    "FormatError": "errors",
    "ImageError": "errors",
    "ImageData": "image_data",
    "WeightsError": "errors",
    "ProgressiveDecoder": "progressive",
    "Target": "rate_control",
    "TargetBpp": "rate_control",
    "TargetBytes": "rate_control",
    "TargetDistance": "rate_control",
    "TargetError": "rate_control",
    "TargetLPIPS": "rate_control",
    "TargetPSNR": "rate_control",
    "encode_to": "rate_control",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
