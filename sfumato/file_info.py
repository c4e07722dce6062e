"""A .sfu file or a model in; what `sfumato info` prints of it out."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sfumato import container
from sfumato.jobs import file_fields, read
from sfumato.terminal import print_json as _json
from sfumato.terminal import print_line
from sfumato.terminal import print_table as _print


def print_file(path: Path, as_json: bool) -> None:
    """Prints what is in a .sfu file, or in the beginning of one; FormatError for what is none."""
    data = read(path)
    found = container.unpack(data, partial=True)
    header, pixels = found.header, found.header.width * found.header.height
    sizes = {name: len(s.payload) for name, s in zip(header.sections, found.sections, strict=False)}
    if as_json:
        fields = {"input": str(path), **file_fields(data), "version": container.VERSION}
        fields |= {"seed": header.noise_seed, "complete": found.complete, "sections": sizes}
        _json(fields | {"metadata": {tag: len(value) for tag, value in found.metadata.items()}})
        return
    whole = f"{len(found.sections)} of {len(header.sections)}"
    state = "" if found.complete else f", cut short after {whole} sections"
    print_line(f"{path}: {header.width}x{header.height}, version {container.VERSION}{state}")
    print_line(f"{'grey' if header.grey else 'colour'}, {'opaque' if found.alpha is None else 'with alpha'}")
    if header.holds_pixels:
        kind = "WebP" if found.sections and found.sections[0].payload[:4] == b"RIFF" else "PNG"
        whose = "its pixels" if header.model_name == "lossless" else "an image of fewer colours"
        print_line(header.model_name + (f": a {kind} of {whose}" if found.sections else ""))
    else:
        print_line(f"quality {header.q / 255:.3f}, model {header.model:08x}, noise seed {header.noise_seed}")
    table = Table("part", "bytes", "bits per pixel", "share")
    sizes["header, lengths, checks"] = container.overhead_bytes(data)
    sizes |= {"alpha": len(found.alpha)} if found.alpha else {}
    if found.metadata:
        sizes["metadata, deflated"] = found.stored
    if rest := len(data) - sum(sizes.values()):
        sizes["length and check of alpha" if found.complete else "unfinished section"] = rest
    for name, size in [*sizes.items(), ("file", len(data))]:
        table.add_row(escape(name), str(size), f"{8 * size / pixels:.4f}", f"{size / len(data):.1%}")
    _print(table)
    for tag, value in found.metadata.items():
        print_line(f"metadata {tag!r}: {len(value)} bytes before they were deflated")


def print_model(name: str, as_json: bool) -> None:
    """Prints what a model costs and what is known of its weights."""
    from sfumato.weights import read_weights

    weights = read_weights(name)
    parts = weights.costs
    if as_json:
        _json({"model": weights.preset, "id": f"{weights.model_id:08x}", "parts": parts})
        return
    table = Table("part", "parameters", "kMAC/pixel")
    for c in parts:
        table.add_row(c["part"], f"{c['parameters']:,}", f"{c['kmac_per_pixel']:.2f}")
    k = {c["part"]: c["kmac_per_pixel"] for c in parts}
    table.add_row("all", f"{sum(c['parameters'] for c in parts):,}", "")
    table.add_row("encode", "", f"{k['g_a'] + k['h_a'] + k['prior']:.2f}")
    table.add_row("decode, steps 0", "", f"{k['prior'] + k['g_s']:.2f}")
    table.add_row("decode, steps 1", "", f"{k['prior'] + k['g_s'] + k['denoiser']:.2f}")
    _print(table)
    denoiser = weights.denoiser_id or "not trained, steps 0 only"
    print_line(f"weights {weights.model_id:08x}, denoiser {denoiser}")
    table = Table("chunk", "channels", "A", "sigma", title="Laplacian position bias")
    biases = zip(weights.config.chunks, weights.position_bias, strict=True)
    for j, (channels, (amplitude, sigma)) in enumerate(biases, start=1):
        table.add_row(str(j), str(channels), f"{amplitude:.3f}", f"{sigma:.3f}")
    _print(table)
