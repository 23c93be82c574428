"""SA-1B: a folder of ``sa_<number>.jpg`` with one ``sa_<number>.json`` each, in shards or not."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.images import HEADER_CHECK_LIMIT, image_size, read_image, require_size
from data.instances import Instance, Rules
from data.json_fields import read_json, value, whole
from data.sample import ImageSample

_FILE = re.compile(r"sa_(\d+)\.(jpg|json)")


class Sa1b:
    """The images of one split, ordered by number, with their instances (an :class:`data.sample.ImageData`).

    SA-1B has no official splits. Here the last ``validation_count`` pictures, but at most half of all, are
    ``"validation"``, and the others are ``"train"``. Pictures alone decide, so the split is the same with and without
    labels. Annotations are checked at construction and read again with each sample: together they fill the memory.

    Args:
        root: folder of the files, or of shards (``sa_000000/`` ...) that hold them.
        split: ``"validation"`` or ``"train"``.
        validation_count: how many pictures are kept for validation.
        labels: False reads no JSON; :meth:`sample` and :meth:`points` refuse.

    Raises:
        InputError: no pictures, a picture without JSON or a JSON without picture, a malformed annotation, an id that
            occurs twice, or a picture that is unreadable or of another size than listed.
    """

    name = "sa1b"

    def __init__(self, root: Path | str, split: str, validation_count: int = 50, labels: bool = True) -> None:
        if split not in ("train", "validation"):
            raise InputError(f'SA-1B has no split "{split}"; choose one of train, validation')
        if validation_count < 1:
            raise InputError(f"validation_count is {validation_count}; keep at least 1 picture for validation")
        pictures, sources = _find(Path(root))
        if labels and (stray := sorted(sources.keys() - pictures.keys())):
            missing = sources[stray[0]].with_suffix(".jpg")
            raise InputError(f"{missing}: no such image file beside its JSON; fetch the picture or remove the JSON")
        numbers = sorted(pictures)
        kept = len(numbers) - min(validation_count, len(numbers) // 2)
        self._numbers = numbers[:kept] if split == "train" else numbers[kept:]
        if not self._numbers:
            raise InputError(f'{root}: {len(numbers)} picture(s) leave none for "{split}"; put at least 2 there')
        self._pictures, self._sources, self._labels, self._rules = pictures, sources, labels, Rules()
        self._instance_counts = [self._check(index) for index in range(len(self))]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._numbers)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`data.skipped.REASONS` applied; "empty_mask" grows as samples are read."""
        return self._rules.skipped.counts

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture, uint8 ``[H, W, 3]`` RGB; InputError when it is missing or not an image."""
        return read_image(self._pictures[self._numbers[index]])

    def image_name(self, index: int) -> str:
        """The file name, ``sa_<number>.jpg``."""
        return self._pictures[self._numbers[index]].name

    def instance_count(self, index: int) -> int:
        """How many instances the rules admitted, without reading the picture; 0 where there is nothing to score."""
        self._require_labels()
        return self._instance_counts[index]

    def sample(self, index: int) -> ImageSample:
        """The picture with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            InputError: as :meth:`image`, the picture is not of the listed size, or there are no labels.
        """
        source, size_hw, instances = self._read(index, Rules())
        number, image = self._numbers[index], self.image(index)
        path = self._pictures[number]
        require_size(path, (image.shape[0], image.shape[1]), size_hw, source)
        return self._rules.sample(number, path.name, image, instances, source)

    def points(self, index: int) -> NDArray[np.float64]:
        """The point each instance of :meth:`sample` was annotated from: float64 ``[N, 2]``, xy in image pixels.

        Raises:
            InputError: an annotation has no ``point_coords``, or there are no labels.
        """
        source, size_hw, instances = self._read(index, Rules())
        kept = [instance for instance, _ in self._rules.with_pixels(instances, size_hw, source)]
        for instance in kept:
            if instance.point_xy is None:
                raise InputError(f'{source}: annotation {instance.annotation_id} has no "point_coords"; fetch it again')
        return np.array([instance.point_xy for instance in kept], dtype=np.float64).reshape(-1, 2)

    def _require_labels(self) -> None:
        if not self._labels:
            raise InputError("SA-1B was opened without annotations; use labels=True to read instances")

    def _check(self, index: int) -> int:
        """Read what can be checked before the first sample; returns how many instances there are."""
        path = self._pictures[self._numbers[index]]
        found_hw = image_size(path) if len(self) <= HEADER_CHECK_LIMIT else None
        if not self._labels:
            return 0
        source, listed_hw, instances = self._read(index, self._rules)
        require_size(path, found_hw or listed_hw, listed_hw, source)
        if not instances:
            self._rules.skipped.count("image_without_instances")
        return len(instances)

    def _read(self, index: int, rules: Rules) -> tuple[Path, tuple[int, int], list[Instance]]:
        """The JSON of an image: its path, the size it lists, and the instances that the rules admit."""
        self._require_labels()
        number = self._numbers[index]
        if number not in self._sources:
            missing = self._pictures[number].with_suffix(".json")
            raise InputError(f"{missing}: no such file beside its picture; fetch it or use labels=False")
        source = self._sources[number]
        content = read_json(source)
        header, raws = value(content, "image", str(source)), value(content, "annotations", str(source))
        if not isinstance(raws, list):
            raise InputError(f'{source}: "annotations" is not a list; fetch the file again')
        size_hw = (whole(header, "height", f"{source}: image", 1), whole(header, "width", f"{source}: image", 1))
        admitted = [rules.admit(raw, size_hw, source) for raw in raws]
        return source, size_hw, [instance for instance in admitted if instance is not None]


def _find(root: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """Pictures and JSON files by number, in the root and in the folders right below it."""
    found: dict[str, dict[int, Path]] = {"jpg": {}, "json": {}}
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; put SA-1B's sa_*.jpg and sa_*.json there or give another root")
    for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
        for path in folder.iterdir():
            if match := _FILE.fullmatch(path.name):
                number, of_kind = int(match[1]), found[match[2]]
                if number in of_kind:
                    raise InputError(f"{path}: the same file is also {of_kind[number]}; remove one of them")
                of_kind[number] = path
    if not found["jpg"]:
        raise InputError(f"{root}: no sa_*.jpg there or one folder below; put SA-1B's files there or give another root")
    return found["jpg"], found["json"]
