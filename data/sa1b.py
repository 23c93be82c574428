"""SA-1B: a folder of ``sa_<number>.jpg`` with one ``sa_<number>.json`` each, in shards or not."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotation_file import listed_size
from data.images import HEADER_CHECK_LIMIT, image_size, read_image, require_size, wrong_size
from data.instances import Instance, Rules
from data.json_fields import read_json, value
from data.sa1b_files import find_files
from data.sample import ImageSample, UnreadableImage


class Sa1b:
    """The images of one split, ordered by number, with their instances (an :class:`data.sample.ImageData`).

    SA-1B has no official splits. Here the last ``validation_count`` pictures, but at most half of all, are
    ``"validation"``, and the others are ``"train"``. Pictures alone decide, so the split is the same with and without
    labels. Annotations are checked at construction and read again with each sample: together they fill the memory.

    Args:
        root: folder of the files, or of shards (``sa_000000/`` ...) that hold them.
        split: ``"validation"`` or ``"train"``.
        validation_count: how many pictures are kept for validation.
        labels: False reads no JSON, and :meth:`sample` refuses.
        missing: pictures that are missing, damaged, of another size than listed or without their JSON are refused
            (``"refuse"``), or left out and counted with their instances (``"skip"``). They count in the split.

    Raises:
        InputError: no pictures, a malformed annotation, an id that occurs twice, ``missing`` is none of the values
            above, or a picture without JSON, a JSON without picture, or a picture that is unreadable or of another size
            than listed and is refused.
    """

    name = "sa1b"

    def __init__(
        self, root: Path | str, split: str, validation_count: int = 50, labels: bool = True, missing: str = "refuse"
    ) -> None:
        self._rules = Rules(missing=missing)
        if split not in ("train", "validation"):
            raise InputError(f'SA-1B has no split "{split}"; choose one of train, validation')
        if validation_count < 1:
            raise InputError(f"validation_count is {validation_count}; keep at least 1 picture for validation")
        self._pictures, self._sources = find_files(Path(root))
        self._labels = labels
        numbers = sorted(self._pictures)
        kept = len(numbers) - min(validation_count, len(numbers) // 2)
        own = numbers[:kept] if split == "train" else numbers[kept:]
        if not own:
            raise InputError(f'{root}: {len(numbers)} picture(s) leave none for "{split}"; put at least 2 there')
        for number in sorted(self._sources.keys() - self._pictures.keys()) if labels else ():
            path = self._sources[number].with_suffix(".jpg")
            problem = f"{path}: no such image file beside its JSON; fetch the picture or remove the JSON"
            in_training = kept == len(numbers) or number < numbers[kept]
            if not self._rules.skipped.skips_pictures or in_training == (split == "train"):
                self._rules.skipped.leave_out(number, len(self._read(number, self._rules)[2]), InputError(problem))
        small = len(own) <= HEADER_CHECK_LIMIT
        counts = {number: count for number in own if (count := self._check(number, small)) is not None}
        if not counts:
            raise InputError(f"{root}: none of the {len(own)} pictures can be used; put others there")
        self._numbers, self._instance_counts = list(counts), counts

    def __len__(self) -> int:
        """Number of images."""
        return len(self._numbers)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`data.skipped.REASONS` applied; some grow as samples are read."""
        return self._rules.skipped.counts

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture, uint8 ``[H, W, 3]`` RGB.

        Raises:
            UnreadableImage: it is missing or damaged, and such are skipped.
            InputError: likewise, where such are refused.
        """
        try:
            return read_image(self._pictures[self._numbers[index]])
        except InputError as problem:
            raise self._left_out(index, problem) from None

    def image_name(self, index: int) -> str:
        """The file name, ``sa_<number>.jpg``."""
        return self._pictures[self._numbers[index]].name

    def sample(self, index: int) -> ImageSample:
        """The picture with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            UnreadableImage, InputError: as :meth:`image`; likewise if it is not of the listed size.
            InputError: there are no labels.
        """
        if not self._labels:
            raise InputError("SA-1B was opened without annotations; use labels=True to read instances")
        number = self._numbers[index]
        source, size_hw, instances = self._read(number, Rules())
        image, path = self.image(index), self._pictures[number]
        try:
            require_size(path, (image.shape[0], image.shape[1]), size_hw, source)
        except InputError as problem:
            raise self._left_out(index, problem) from None
        return self._rules.sample(number, path.name, image, instances, source)

    def _left_out(self, index: int, problem: InputError) -> UnreadableImage:
        """What to raise about a picture, once it is counted; raises ``problem`` where such are refused."""
        number = self._numbers[index]
        self._rules.skipped.leave_out(number, self._instance_counts[number], problem)
        return UnreadableImage(str(problem))

    def _check(self, number: int, with_header: bool) -> int | None:
        """Read what can be checked before the first sample; how many instances there are, None if it is left out."""
        path, count = self._pictures[number], 0
        found_hw: tuple[int, int] | None = None
        problems: list[InputError] = []
        if with_header:
            try:
                found_hw = image_size(path)
            except InputError as problem:
                problems.append(problem)
        if self._labels and number not in self._sources:
            missing = path.with_suffix(".json")
            problems.append(InputError(f"{missing}: no such file beside its picture; fetch it or use labels=False"))
        elif self._labels:
            source, listed_hw, instances = self._read(number, self._rules)
            count = len(instances)
            self._rules.skipped.count("image_without_instances", int(not count))
            if found_hw is not None and found_hw != listed_hw:
                problems.append(wrong_size(path, found_hw, listed_hw, source))
        if problems:
            self._rules.skipped.leave_out(number, count, problems[0])
            return None
        return count

    def _read(self, number: int, rules: Rules) -> tuple[Path, tuple[int, int], list[Instance]]:
        """The JSON of an image: its path, the size it lists, and the instances that the rules admit."""
        source = self._sources[number]
        content = read_json(source)
        header, raws = value(content, "image", str(source)), value(content, "annotations", str(source))
        if not isinstance(raws, list):
            raise InputError(f'{source}: "annotations" is not a list; fetch the file again')
        size_hw = listed_size(header, f"{source}: image")
        admitted = [rules.admit(raw, size_hw, source) for raw in raws]
        return source, size_hw, [instance for instance in admitted if instance is not None]
