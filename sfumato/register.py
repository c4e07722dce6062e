"""Makes .sfu a file type of the desktop: media type, magic, thumbnails, ImageMagick; and takes it back.

    sfumato register --user         shared-mime-info and thumbnailer in ~/.local/share, ~/.magic for file(1),
                                    a delegate in ~/.config/ImageMagick
    sfumato register --system       the same in /usr/local/share, /etc/magic, /etc/ImageMagick-*
    sfumato register --user --undo

A file that others write to as well gets a marked block, and keeps the rest.  `python -m sfumato.register FILE
PNG [SIDE]` is what thumbnailers and ImageMagick run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from sfumato import files
from sfumato.command_options import Flag
from sfumato.jobs import UsageError
from sfumato.terminal import print_line, warn

MIME = "image/x-sfumato"
XML_MARKS = "<!-- sfumato: begin -->", "<!-- sfumato: end -->"
TEXT_MARKS = "# sfumato: begin", "# sfumato: end"
DELEGATES = '<?xml version="1.0" encoding="UTF-8"?>\n<delegatemap>\n', "</delegatemap>\n"

PACKAGE = f"""<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{MIME}">
    <comment>sfumato image</comment>
    <magic priority="60">
      <match type="string" offset="0" value="SFU">
        <match type="byte" offset="3" value="0x30" mask="0xf0"/>
      </match>
    </magic>
    <glob pattern="*.sfu"/>
  </mime-type>
</mime-info>
"""
MAGIC = f"""0\tstring\tSFU
>3\tubyte/16\t>0\tsfumato image, version %d
!:mime\t{MIME}
!:ext\tsfu
"""


@dataclass(frozen=True)
class Entry:
    """One file of the registration.

    path   where it lies
    text   what it holds, or the block of it that is ours
    marks  lines around the block in a file that others write to; None: the whole file is ours
    frame  what stands before and after the blocks of such a file if there is none yet
    """

    path: Path
    text: str
    marks: tuple[str, str] | None = None
    frame: tuple[str, str] = ("", "")

    @property
    def block(self) -> str:
        """The text between its marks."""
        return self.text if self.marks is None else f"{self.marks[0]}\n{self.text}{self.marks[1]}\n"

    def write(self) -> None:
        """Writes the file, or puts the block into it, anew if it is there; UsageError for somebody else's."""
        if self.marks is None:
            self._check_ours()
            content = self.text
        else:
            content = self._others() or "".join(self.frame)
            head, end, tail = content.rpartition(self.frame[1]) if self.frame[1] else (content, "", "")
            if self.frame[1] and not end:
                raise UsageError(
                    f"{self.path} has no line {self.frame[1].strip()}: add this yourself:\n{self.block}"
                )
            gap = "\n" if head and not head.endswith("\n") else ""
            content = head + gap + self.block + end + tail
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(self.path, content.encode())

    def remove(self) -> bool:
        """Takes the file, or the block in it, away; whether there was any."""
        if not self.path.is_file():
            return False
        if self.marks is None:
            self._check_ours()
            self.path.unlink()
            return True
        left = self._others()
        if left == self.path.read_text():
            return False
        if left == "".join(self.frame):
            self.path.unlink()
        else:
            files.write_bytes(self.path, left.encode())
        return True

    def _others(self) -> str:
        """What a file that others write to holds beside our block."""
        assert self.marks is not None
        if not self.path.is_file():
            return ""
        begin, end = map(re.escape, self.marks)
        return re.sub(rf"^{begin}\n.*?^{end}\n", "", self.path.read_text(), flags=re.M | re.S)

    def _check_ours(self) -> None:
        if self.path.is_file() and MIME not in self.path.read_text(errors="replace"):
            raise UsageError(f"{self.path} is not a file of sfumato's; it stays as it is")


def entries(
    scope: Literal["user", "system"], environment: Mapping[str, str], root: Path = Path("/")
) -> list[Entry]:
    """The files of a registration for one user, by their environment, or for all, under `root`."""
    if scope == "user":
        home = Path(environment.get("HOME") or Path.home())
        data = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        magic, delegates = home / ".magic", [config / "ImageMagick"]
    else:
        data, magic = root / "usr/local/share", root / "etc/magic"
        delegates = sorted((root / "etc").glob("ImageMagick-*"))
    return [
        Entry(data / "mime/packages/sfumato.xml", PACKAGE),
        Entry(data / "thumbnailers/sfumato.thumbnailer", _thumbnailer()),
        Entry(magic, MAGIC, TEXT_MARKS),
        *(Entry(folder / "delegates.xml", _delegate(), XML_MARKS, DELEGATES) for folder in delegates),
    ]


def register(user: Flag = False, system: Flag = False, print: Flag = False, undo: Flag = False) -> None:
    """Make .sfu a file type of the desktop: media type, magic of file(1), thumbnails, ImageMagick.

    Args:
        user: For this user; the default.
        system: For all users, in /usr/local/share and /etc.
        print: Write nothing; show which files would be written, and what they hold.
        undo: Remove what was registered.
    """
    if user and system:
        raise UsageError("--user and --system exclude each other")
    found = entries("system" if system else "user", os.environ)
    if print:
        for entry in found:
            sys.stdout.write(f"# {entry.path}\n{entry.block}\n")
        return
    for entry in found:
        if not undo:
            entry.write()
            print_line(f"{entry.path}: written")
        elif entry.remove():
            print_line(f"{entry.path}: {'block ' if entry.path.exists() else ''}removed")
    _update(found[0].path.parent.parent)


def _update(mime: Path) -> None:
    """Has the database of media types made anew."""
    if (program := shutil.which("update-mime-database")) is None:
        warn("update-mime-database (package shared-mime-info) is missing: the media type is not in use yet")
        return
    done = subprocess.run([program, str(mime)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{program} {mime}: {done.stderr.strip()}")


def _command() -> str:
    return f"{shlex.quote(sys.executable)} -m sfumato.register"


def _thumbnailer() -> str:
    return f"[Thumbnailer Entry]\nTryExec={sys.executable}\nExec={_command()} %i %o %s\nMimeType={MIME};\n"


def _delegate() -> str:
    python = sys.executable.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    run = f"&quot;{python}&quot; -m sfumato"
    return (
        f'  <delegate decode="sfu" command="{run}.register &quot;%i&quot; &quot;%o&quot;"/>\n'
        f'  <delegate decode="png" encode="sfu" '
        f'command="{run} encode &quot;%i&quot; -o &quot;%o&quot; --overwrite"/>\n'
    )


def to_png(source: Path, target: Path, side: int | None = None) -> None:
    """A .sfu file -> a PNG of at most `side` pixels a side, whatever the target is called."""
    from sfumato.pillow import register as register_with_pillow

    register_with_pillow()
    with Image.open(source, formats=["SFU"]) as image:
        if side is not None:
            image.thumbnail((side, side))
        buffer = io.BytesIO()
        kept = {name: image.info[name] for name in ("icc_profile", "exif", "dpi") if name in image.info}
        image.save(buffer, "PNG", **kept)
    files.write_bytes(target, buffer.getvalue())


def main() -> None:
    """`python -m sfumato.register FILE PNG [SIDE]`."""
    try:
        source, target, *side = sys.argv[1:]
        to_png(Path(source), Path(target), int(side[0]) if side else None)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"sfumato: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
