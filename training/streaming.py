"""Tar shards too large for memory in, random crops out, from a window of decoded images that moves on.

    shards of this process, in an order drawn for each pass -> tars, read in a thread -> decoded images
    -> window -> crops

Shards are paths, or URLs of any store that fsspec opens.  WebDataset reads the tars.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.data import SUFFIXES, decode, random_crop

CROPS_PER_IMAGE = 4  # that are cut from the window before the next image comes in
AHEAD = 8  # images that are decoded before they are needed
FIRST = 32  # images in the window before the first crop
GIGABYTE = 10**9


class Stream:
    """What `data.Images` is to training, for images that are read once a pass and not kept.

    Each of `processes` reads every `processes`-th shard of a pass, whose order all draw alike.  Crops follow
    from `seed`, `first_pass` and the generator.  Images that cannot be read are left out with a warning;
    ValueError for fewer shards than processes, or a pass without an image of `smallest` pixels a side.
    """

    def __init__(
        self,
        shards: Sequence[str],
        smallest: int,
        device: torch.device,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        window: int = GIGABYTE // 2,  # bytes of decoded images
    ) -> None:
        if len(shards) < processes:
            raise ValueError(f"{len(shards)} shards for {processes} processes: each needs one of its own")
        self.shards, self.smallest, self.device = list(shards), smallest, device
        self.seed, self.process, self.processes, self.window = seed, process, processes, window
        self.first_pass = 0  # a resumed run begins with another, lest it see the same images again
        self._images: deque[np.ndarray] = deque()
        self._areas: deque[int] = deque()
        self._crops, self._full = 0, False
        self._decoded: Queue[np.ndarray | Exception] = Queue(AHEAD)
        self._stop = Event()
        self._reader: Thread | None = None

    def facts(self) -> dict[str, int]:
        """For the log."""
        return {"shards": len(self.shards)}

    def crop(
        self, side: int, rng: np.random.Generator, rescaled: float, tries: int = 1
    ) -> Float[Tensor, "1 3 side side"]:
        """As `data.Images.crop`, of an image in the window."""
        if self._reader is None:
            self._reader = Thread(target=self._read, daemon=True)
            self._reader.start()
        if self._crops % CROPS_PER_IMAGE == 0:
            self._advance()
        while len(self._images) < FIRST and not self._full:
            self._advance()
        self._crops += 1
        areas = np.array(self._areas, dtype=np.float64)
        image = torch.from_numpy(self._images[int(rng.choice(len(areas), p=areas / areas.sum()))])
        return random_crop(image.to(self.device), side, rng, rescaled, tries)

    def close(self) -> None:
        """Ends the reader."""
        self._stop.set()

    def _advance(self) -> None:
        """The next image into the window, and the oldest out of it where it is full."""
        image = self._decoded.get()
        if isinstance(image, Exception):
            raise image
        self._images.append(image)
        self._areas.append(image.shape[0] * image.shape[1])
        while 3 * sum(self._areas) > self.window and len(self._images) > 1:
            self._full = True
            self._images.popleft()
            self._areas.popleft()

    def _read(self) -> None:
        """In a thread: decoded images, pass after pass."""
        try:
            for number in count(self.first_pass):
                found = False
                for image in self._one_pass(number):
                    found = True
                    if not self._put(image):
                        return
                if not found:
                    raise ValueError(f"no image of at least {self.smallest} px a side in {self.shards}")
        except Exception as error:
            self._put(error)

    def _one_pass(self, number: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, number)).permutation(len(self.shards))
        mine = [self.shards[i] for i in order[self.process :: self.processes]]
        for name, data in images_of(mine):
            try:
                image = decode((name, data))
            except ValueError as error:
                warnings.warn(f"{error}; left out", stacklevel=1)
                continue
            if min(image.shape[:2]) >= self.smallest:
                yield image

    def _put(self, item: np.ndarray | Exception) -> bool:
        """Whether it was taken before the stream was closed."""
        while not self._stop.is_set():
            try:
                self._decoded.put(item, timeout=0.5)
                return True
            except Full:
                continue
        return False


def images_of(shards: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the images in tars, in their order, read as they come."""
    import fsspec
    from webdataset.tariterators import tar_file_expander

    for url in shards:
        with fsspec.open(url, "rb") as stream:
            for file in tar_file_expander([{"url": url, "stream": stream}]):
                if Path(file.get("fname", "")).suffix.lower() in SUFFIXES:
                    yield f"{url}/{file['fname']}", file["data"]
