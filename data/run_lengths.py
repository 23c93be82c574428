"""Masks as run lengths, many at once, and the share of each cell of a grid that they cover; no mask is ever drawn.

Runs go down the columns and begin with background, as COCO's do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

# A count is written five bits a character; seven characters hold more than any image has pixels.
LONGEST_COUNT = 7
_BITS, _CONTINUES = 5, 0x20
_SIGN = np.int8(0x10)


def expand_all(strings: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.bool_]]:
    """What compressed RLE strings stand for, all in one go.

    pycocotools reads past the end of a malformed string, so strings are read here before it sees them.

    Returns:
        The run lengths of all strings one after the other, ``[R]``; where those of each begin and the last end,
        ``[N + 1]``; and which strings are well formed, ``[N]``. One that is not has the single run 0.
    """
    sizes = np.array([len(string) for string in strings], dtype=np.intp)
    well_formed = sizes > 0
    if not well_formed.all():
        return _without(strings, well_formed)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    chars = np.frombuffer(b"".join(strings), dtype=np.uint8) - np.uint8(48)
    if not len(chars):
        return np.zeros(0, np.int64), np.zeros(1, np.intp), well_formed
    last = chars[begins[1:] - 1]
    if chars.max() > 63 or (last >= _CONTINUES).any():
        return _without(strings, (np.maximum.reduceat(chars, begins[:-1]) <= 63) & (last < _CONTINUES))
    goes_on = chars >= _CONTINUES
    # The last character of each number has its sign, the highest of its bits; most numbers have no other.
    ends = chars[~goes_on].view(np.int8)
    values = ((ends ^ _SIGN) - _SIGN).astype(np.int64)
    lower = np.flatnonzero(goes_on)
    number = lower - np.arange(len(lower))
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    lengths = np.diff(starts, append=len(lower))
    if len(lower) and (longest := int(lengths.max())) >= LONGEST_COUNT:
        well_formed[np.searchsorted(begins, lower[starts[lengths >= LONGEST_COUNT]], "right") - 1] = False
        return _without(strings, well_formed)
    values[number[starts]] <<= _BITS * lengths
    for place in range(longest if len(lower) else 0):
        own = starts[lengths > place] + place
        values[number[own]] += (chars[lower[own]] & 0x1F).astype(np.int64) << (_BITS * place)
    firsts = begins - np.searchsorted(lower, begins)
    return _summed(values, firsts), firsts, well_formed


def _without(
    strings: Sequence[bytes], well_formed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.bool_]]:
    kept = [string if good else b"0" for string, good in zip(strings, well_formed, strict=True)]
    counts, firsts, good = expand_all(kept)
    return counts, firsts, good & well_formed


def _summed(values: NDArray[np.int64], firsts: NDArray[np.intp]) -> NDArray[np.int64]:
    """The counts: from the fourth on, each is stored as its difference from the count two before it."""
    counts = values.copy()
    # The first count of a string is in neither of its two chains of sums.
    counts[firsts[:-1]] = 0
    for parity in (0, 1):
        chain = counts[parity::2]
        places = (firsts - parity + 1) // 2
        begins = places[:-1][places[:-1] < places[1:]]
        if len(begins):
            # Sums run on from one string into the next, so each begins with what the one before came to, taken away.
            chain[begins[1:]] -= np.add.reduceat(chain, begins)[:-1]
            np.cumsum(chain, out=chain)
    counts[firsts[:-1]] = values[firsts[:-1]]
    return counts


@dataclass(frozen=True)
class RunLengths:
    """Masks of one image.

    Attributes:
        counts: the run lengths of all masks one after the other, int64 ``[R]``; those of each fill the image.
        firsts: where those of each begin, and the last end, ``[N + 1]``.
        size_hw: of the image.
    """

    counts: NDArray[np.int64]
    firsts: NDArray[np.intp]
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        """How many masks."""
        return len(self.firsts) - 1

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 ``[N]``."""
        own = np.repeat(self.firsts[:-1], np.diff(self.firsts))
        sums = np.concatenate([[0], np.cumsum(self.counts * ((np.arange(len(self.counts)) - own) & 1))])
        return sums[self.firsts[1:]] - sums[self.firsts[:-1]]

    def boxes(self) -> NDArray[np.int64]:
        """The box of each mask, xyxy int64 ``[N, 4]``: its ends lie behind the last pixels; 0 of an empty mask."""
        height, width = self.size_hw
        own = np.arange(len(self.counts)) - np.repeat(self.firsts[:-1], np.diff(self.firsts))
        runs = np.flatnonzero((own & 1) & (self.counts > 0))
        found = np.zeros((len(self), 4), np.int64)
        if not len(runs):
            return found
        owners = np.searchsorted(self.firsts, runs, "right") - 1
        # Columns and rows of each run's first and last pixel; the masks lie one after the other.
        last = np.cumsum(self.counts)[runs] - 1
        (left, top), (right, bottom) = np.divmod(last + 1 - self.counts[runs], height), np.divmod(last, height)
        # One that goes on in the next column reaches from end to end.
        top[right > left], bottom[right > left] = 0, height - 1
        present, begins = np.unique(owners, return_index=True)
        for side, (sides, end) in enumerate(
            ((left, np.minimum), (top, np.minimum), (right, np.maximum), (bottom, np.maximum))
        ):
            found[present, side] = end.reduceat(sides, begins) + (side > 1)
        found[present, 0] -= present * width
        found[present, 2] -= present * width
        return found

    def only(self, chosen: NDArray[np.intp]) -> "RunLengths":
        """Chosen masks, in the order given."""
        parts = [self.counts[self.firsts[k] : self.firsts[k + 1]] for k in chosen.tolist()]
        firsts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.intp)
        return RunLengths(np.concatenate([*parts, np.zeros(0, np.int64)]), firsts, self.size_hw)

    def masks(self) -> NDArray[np.bool_]:
        """The masks drawn, bool ``[N, H, W]``."""
        height, width = self.size_hw
        own = np.arange(len(self.counts)) - np.repeat(self.firsts[:-1], np.diff(self.firsts))
        pixels = np.repeat((own & 1).astype(np.bool_), self.counts)
        return pixels.reshape(len(self), width, height).transpose(0, 2, 1)

    def coverage(self, side: int, out: NDArray[np.float32], stretched: bool = False) -> None:
        """The share of each cell of a square grid over the frame that each mask covers.

        The same figures as :func:`data.batches.coverage_of` has of drawn masks.

        Args:
            side: cells along the frame.
            out: float32 ``[N, side, side]``, all zero.
            stretched: whether both sides of the image fill the frame, or the longer one.
        """
        height, width = self.size_hw
        high, wide = (height, width) if stretched else (max(height, width),) * 2
        if min(high, wide) < side:
            # A pixel lies in many cells; images so small are quickly drawn.
            for number in range(len(self)):
                mask = torch.from_numpy(self.only(np.array([number])).masks())
                whole = F.pad(mask.float(), (0, wide - width, 0, high - height))
                out[number] = F.adaptive_avg_pool2d(whole, side)[0].numpy()
            return
        grid, across = _grid(high, side), _grid(wide, side)
        # Of all masks together, one after the other: columns of pixels, and from which row to which.
        columns, tops, bottoms = self._pieces()
        owners, x = np.divmod(columns, width)
        cells = across.whole[x]
        twice = np.flatnonzero(across.shared[x])
        if len(twice):
            # Neighbouring cells share the column that their border runs through.
            places = np.sort(np.concatenate([np.arange(len(x)), twice]))
            owners, tops, bottoms, cells = owners[places], tops[places], bottoms[places], cells[places]
            cells[1:] += places[1:] == places[:-1]
        first, last = grid.whole[tops], grid.whole[bottoms]
        present, begins = np.unique(owners, return_index=True)
        if not len(present):
            return
        left, top = np.minimum.reduceat(cells, begins), np.minimum.reduceat(first, begins)
        right, below = np.maximum.reduceat(cells, begins) + 1, np.maximum.reduceat(last, begins) + 1
        heights = below - top
        offsets = np.concatenate([[0], np.cumsum((right - left) * heights)])
        at = np.repeat(offsets[:-1] - left * heights - top, np.diff(np.append(begins, len(owners))))
        at += cells * np.repeat(heights, np.diff(np.append(begins, len(owners))))
        # Each piece fills the cells from its first to before its last, and of these two a part.
        places = np.concatenate([at + first, at + last])
        signs = np.repeat([1.0, -1.0], len(at))
        inside = np.cumsum(np.bincount(places, signs, offsets[-1]))
        parts = np.bincount(places, -signs * np.concatenate([grid.part[tops], grid.part[bottoms]]), offsets[-1])
        for number, own in enumerate(present.tolist()):
            rows, own_columns = slice(top[number], below[number]), slice(left[number], right[number])
            block = slice(offsets[number], offsets[number + 1])
            shape = (right[number] - left[number], heights[number])
            pixels = inside[block].reshape(shape).T * grid.sides[rows, None] + parts[block].reshape(shape).T
            limit = slice(0, side - top[number])
            rows = slice(top[number], min(below[number], side))
            shares = pixels[limit].astype(np.float32) / grid.sides[rows, None].astype(np.float32)
            out[own, rows, own_columns] = shares / across.sides[own_columns].astype(np.float32)

    def _pieces(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The runs of all masks cut at the ends of columns: column (counted through all masks), first row, row after
        the last."""
        height = self.size_hw[0]
        ends = np.cumsum(self.counts)
        own = np.arange(len(self.counts)) - np.repeat(self.firsts[:-1], np.diff(self.firsts))
        runs = np.flatnonzero((own & 1) & (self.counts > 0))
        ends, starts = ends[runs], ends[runs] - self.counts[runs]
        columns = starts // height
        spans = (ends - 1) // height - columns + 1
        if (spans > 1).any():
            steps = np.arange(int(spans.sum())) - np.repeat(np.cumsum(spans) - spans, spans)
            columns, starts, ends = np.repeat(columns, spans) + steps, np.repeat(starts, spans), np.repeat(ends, spans)
        above = columns * height
        return columns, np.maximum(starts - above, 0), np.minimum(ends - above, height)


@dataclass(frozen=True)
class _Grid:
    """How pixels along a side fall into cells, as PyTorch's adaptive pooling has it: cell ``i`` of ``n`` goes from
    pixel ``floor(i * length / n)`` to before ``ceil((i + 1) * length / n)``.

    Attributes:
        whole: how many cells end at or before a pixel, by pixel, ``[length + 1]``: so also the cell it lies in.
        part: how many pixels of that cell lie before it, ``[length + 1]``.
        shared: whether the pixel lies in the next cell too, ``[length + 1]``.
        sides: pixels of each cell, ``[n + 1]``; the last stands for what is beyond all.
    """

    whole: NDArray[np.int64]
    part: NDArray[np.int64]
    shared: NDArray[np.bool_]
    sides: NDArray[np.int64]


@lru_cache(maxsize=64)
def _grid(length: int, side: int) -> _Grid:
    cells = np.arange(side)
    begins, ends = cells * length // side, -(-(cells + 1) * length // side)
    pixels = np.arange(length + 1)
    whole = np.searchsorted(ends, pixels, "right")
    begins = np.append(begins, [length, length])
    return _Grid(
        whole=whole,
        part=np.maximum(pixels - begins[whole], 0),
        shared=begins[whole + 1] <= pixels,
        sides=np.append(ends - begins[:side], 1),
    )
