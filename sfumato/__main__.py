"""The command: `sfumato encode`, `sfumato decode`, `sfumato info`.  Arguments in, files and text out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from sfumato import DEFAULT_MODEL, __version__, container, image

SUFFIX = ".sfu"


class UsageError(ValueError):
    """An argument that cannot be meant; the message says what could be."""


def encode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    quality: Annotated[float, tyro.conf.arg(aliases=["-q"])] = 0.5,
    model: str = DEFAULT_MODEL,
    seed: int | None = None,
    strip: bool = False,
) -> None:
    """Make a picture a small file.

    Args:
        source: the picture: PNG, JPEG, WebP, AVIF, TIFF, ...
        out: the file to write; without it the picture's name with .sfu, unless that is taken.
        quality: 0 (about 0.05 bits per pixel) .. 1 (about 0.8).
        model: weights by name, or a path to a file of weights.
        seed: of the noise that decoding with steps uses; without it, one that follows from the file.
        strip: leave out EXIF, XMP and the colour profile (the colours become sRGB).
    """
    target = _target(source, out, SUFFIX)
    begun = time.perf_counter()
    with _Bar() as bar:
        from sfumato.codec import load  # torch is loaded only where it is needed, and takes a while

        picture = image.strip(image.load(source)) if strip else image.load(source)
        data = load(model).encode(picture, quality, seed, bar)
        image.write_bytes(target, data)
    _remark(source, picture.remarks)
    height, width = picture.pixels.shape[:2]
    rate = f"{len(data)} bytes, {8 * len(data) / (width * height):.3f} bpp"
    _say(target, f"{width}x{height}, {rate}, {time.perf_counter() - begun:.2f} s")


def decode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    steps: int = 0,
    realism: float = 1.0,
    partial: bool = False,
    crop: tuple[int, int, int, int] | None = None,
    model: str | None = None,
) -> None:
    """Make a file a picture again.

    Args:
        source: the .sfu file.
        out: the picture to write, in the format of its suffix; without it the name with .png, unless taken.
        steps: of the diffusion that restores texture; 0 gives the certain picture.
        realism: 0 (faithful) .. 1 (natural), how much noise the diffusion starts from.
        partial: accept a file that is cut short and show what its beginning holds.
        crop: X Y WIDTH HEIGHT in pixels: decode only this part.
        model: a path to the file of weights that wrote it, if those are not in the package.
    """
    target = _target(source, out, ".png")
    image.format_of(target)  # a suffix that cannot be written is told before the work
    begun = time.perf_counter()
    with _Bar() as bar:
        from sfumato.codec import Crop, load, model_of

        data = source.read_bytes()
        part = None if crop is None else Crop(*crop)
        picture = load(model or model_of(data)).decode_picture(data, steps, realism, partial, bar, part)
        left_out = image.write(target, picture)
    _remark(source, picture.remarks)
    _remark(target, left_out)
    height, width = picture.pixels.shape[:2]
    _say(target, f"{width}x{height}, steps {steps}, {time.perf_counter() - begun:.2f} s")


def info(file: Annotated[Path | None, tyro.conf.Positional] = None, model: str | None = None) -> None:
    """Tell what is in a file, or what a model costs.

    Args:
        file: a .sfu file.
        model: name of a preset (small, base, paper).
    """
    if (file is None) == (model is None):
        raise UsageError("give a file or --model, one of the two")
    if file is not None:
        _info_file(file)
    if model is not None:
        _info_model(model)


def _info_file(path: Path) -> None:
    data = path.read_bytes()
    file = container.unpack(data, partial=True)
    header, pixels = file.header, file.header.width * file.header.height
    whole = f"{len(file.sections)} of {len(container.SECTIONS)}"
    state = "" if file.complete else f", cut short after {whole} sections"
    print(f"{path}: {header.width}x{header.height}, version {container.VERSION}{state}")
    print(f"{'grey' if header.grey else 'colour'}, {'opaque' if file.alpha is None else 'with alpha'}")
    print(f"quality {header.q / 255:.3f}, model {header.model:08x}, noise seed {header.noise_seed}")
    table = Table("part", "bytes", "bits per pixel", "share")
    sizes = {name: len(s.payload) for name, s in zip(container.SECTIONS, file.sections, strict=False)}
    sizes["header, lengths, checks"] = container.fixed_bytes(data)
    sizes |= {"alpha": len(file.alpha)} if file.alpha else {}
    sizes |= {f"metadata {tag!r}": len(value) for tag, value in file.metadata.items()}
    if rest := len(data) - sum(sizes.values()):
        sizes["lengths and checks of alpha, metadata" if file.complete else "unfinished section"] = rest
    for name, size in [*sizes.items(), ("file", len(data))]:
        table.add_row(escape(name), str(size), f"{8 * size / pixels:.4f}", f"{size / len(data):.1%}")
    _print(table)


def _info_model(name: str) -> None:
    from sfumato.model import PRESETS, WEIGHTS, WeightsError, costs, load_weights

    if name not in PRESETS:
        raise WeightsError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    parts = costs(name)
    table = Table("part", "parameters", "kMAC/pixel")
    for c in parts:
        table.add_row(c.part, f"{c.parameters:,}", f"{c.kmac_per_pixel:.2f}")
    k = {c.part: c.kmac_per_pixel for c in parts}
    table.add_row("all", f"{sum(c.parameters for c in parts):,}", "")
    table.add_row("encode", "", f"{k['g_a'] + k['h_a'] + k['prior']:.2f}")
    table.add_row("decode, steps 0", "", f"{k['prior'] + k['g_s']:.2f}")
    table.add_row("decode, steps 1", "", f"{k['prior'] + k['g_s'] + k['denoiser']:.2f}")
    _print(table)
    if not (WEIGHTS / f"{name}.safetensors").is_file():
        print("no weights of this preset are in the package")
        return
    weights = load_weights(name)
    denoiser = "trained" if weights.model.has_denoiser else "not trained, steps 0 only"
    print(f"weights {weights.model_id:08x}, denoiser {denoiser}")
    table = Table("chunk", "channels", "A", "sigma", title="Laplacian position bias")
    prior = weights.model.prior
    for j, (channels, bias) in enumerate(zip(prior.sizes, prior.biases(), strict=True), start=1):
        a, sigma = abs(float(bias.amplitude)), abs(float(bias.sigma))
        table.add_row(str(j), str(channels), f"{a:.3f}", f"{sigma:.3f}")
    _print(table)


def _say(target: Path, what: str) -> None:
    """The one line of success; beside the bytes, not among them, when those go to a pipe or a device."""
    print(f"{target}: {what}", file=sys.stdout if target.is_file() else sys.stderr)


def _remark(path: Path, sentences: tuple[str, ...]) -> None:
    for sentence in sentences:
        print(f"{path}: {sentence}", file=sys.stderr)


def _print(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)


def _target(source: Path, out: Path | None, suffix: str) -> Path:
    """Where to write: what was asked for, or the source's name with another suffix if that is free."""
    target = out if out is not None else source.with_suffix(suffix)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file with -o")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    if out is None and target.exists():
        raise UsageError(f"{target} exists; name it with -o to overwrite it")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input; name another file with -o")
    return target


class _Bar:
    """A progress bar on the terminal while the work lasts; nothing where standard error is no terminal."""

    def __enter__(self) -> Callable[[str, float], None]:
        columns = TextColumn("{task.description}"), BarColumn()
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task("loading", total=1.0)
        return lambda what, part: self._bar.update(self._task, description=what, completed=part)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def main() -> None:
    """Entry point.  Exit code 1 for an error, told in one line; 2 for wrong usage; 130 for Ctrl-C."""
    if sys.argv[1:] == ["--version"]:
        print(f"sfumato {__version__}, format {container.VERSION}")
        return
    try:
        commands: dict[str, Callable[..., None]] = {"encode": encode, "decode": decode, "info": info}
        tyro.extras.subcommand_cli_from_dict(commands, prog="sfumato")
    except RuntimeError as error:  # how torch says it; anything else is a bug and shows its traceback
        if "allocate memory" not in str(error):
            raise
        sys.exit("sfumato: not enough memory for a picture of this size")
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        else:
            message = str(error) or type(error).__name__
        sys.exit(f"sfumato: {message}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
