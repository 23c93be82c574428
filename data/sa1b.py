"""SA-1B: a folder of ``sa_<number>.jpg`` with one ``sa_<number>.json`` each, in shards or not."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.plain_file import reraise_access
from data.annotated_images import listed_size
from data.content import ReadFromFiles
from data.image_files import SA1B_FILE, files_below, is_image, require_plain
from data.images import HEADER_CHECK_LIMIT, image_size, read_image, require_size, wrong_size
from data.instances import Instance, Rules
from data.json_fields import read_json, value
from data.sample import ImageSample, UnreadableImage

_MOST_DIGITS = 18


def find_files(root: Path) -> tuple[dict[int, Path], dict[int, Path], int]:
    """Images and JSON files by number, and how many files are neither.

    Images may have any suffix of :data:`data.image_files.SUFFIXES`, and files any depth below the root.

    Raises:
        InputError: there is no such folder, it has no images, one is closed, or a number occurs twice or fits into
            no array.
    """
    with reraise_access(root):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; put SA-1B's sa_*.jpg and sa_*.json there or give another root")
    images: dict[int, Path] = {}
    sources: dict[int, Path] = {}
    others = 0
    for name in files_below(root):
        match = SA1B_FILE.fullmatch(name.rpartition("/")[2])
        of_kind = images if match and is_image(name) else sources if match and match[2].lower() == "json" else None
        if match is None or of_kind is None:
            others += 1
            continue
        path = root / require_plain(root, name)
        if len(match[1]) > _MOST_DIGITS:
            raise InputError(f"{path}: a number of {len(match[1])} digits; rename the file")
        number = int(match[1])
        if number in of_kind:
            first, second = sorted([path, of_kind[number]])
            raise InputError(f"{second}: the same number is also {first}; remove one of them")
        of_kind[number] = path
    if not images:
        raise InputError(f"{root}: no sa_*.jpg there or below; put SA-1B's files there or give another root")
    return images, sources, others


SPLITS = ("train", "validation", "all")


class Sa1b(ReadFromFiles):
    """The images of one split, ordered by number, with their instances (an :class:`data.sample.ImageData`).

    SA-1B has no official splits. Here the last ``validation_count`` images, but at most half of all, are
    ``"validation"``, and the others are ``"train"``. Where training and validation lie in folders of their own, as
    SlimSAM has them, ``"all"`` takes the whole of either. Images alone decide, so the split is the same with and
    without labels. Annotations are checked at construction and read again with each sample: together they fill the
    memory.

    Args:
        root: folder of the files, or of shards (``sa_000000/`` ...) that hold them, at any depth.
        split: ``"validation"``, ``"train"`` or ``"all"``.
        validation_count: how many images are kept for validation.
        labels: False reads no JSON, and :meth:`sample` refuses.
        missing: images that are missing, damaged, of another size than listed or without a JSON that can be read are
            refused (``"refuse"``), or left out and counted with their instances (``"skip"``). They count in the split.
        unusable: annotations that cannot be used are refused, or left out and counted, likewise.

    Raises:
        InputError: no images, an annotation that cannot be used and is refused, an id that occurs twice, a value is
            none of those above, or an image without its JSON, a JSON that is damaged or without its image, or an
            image that is unreadable or of another size than listed and is refused.
    """

    name = "sa1b"

    def __init__(
        self,
        root: Path | str,
        split: str,
        validation_count: int = 50,
        labels: bool = True,
        missing: str = "refuse",
        unusable: str = "refuse",
    ) -> None:
        self._rules, self._unusable = Rules(missing=missing, unusable=unusable), unusable
        if split not in SPLITS:
            raise InputError(f'SA-1B has no split "{split}"; choose one of {", ".join(SPLITS)}')
        if validation_count < 1:
            raise InputError(f"validation_count is {validation_count}; keep at least 1 image for validation")
        self._images, self._sources, others = find_files(Path(root))
        self._rules.skipped.count("other_file", others)
        self._labels = labels
        self._without_point: dict[int, int] = {}
        numbers = sorted(self._images)
        kept = len(numbers) - min(validation_count, len(numbers) // 2)
        own = {"train": numbers[:kept], "validation": numbers[kept:], "all": numbers}[split]
        if not own:
            problem = f'{len(numbers)} image(s) leave none for "{split}"'
            raise InputError(f"{root}: {problem}; put at least 2 there, or give split=all")
        for number in sorted(self._sources.keys() - self._images.keys()) if labels else ():
            path = self._sources[number].with_suffix(".jpg")
            problem = f"{path}: no such image file beside its JSON; fetch the image or remove the JSON"
            in_training = kept == len(numbers) or number < numbers[kept]
            if not self._rules.skipped.skips_images or split in ("all", "train" if in_training else "validation"):
                self._rules.skipped.leave_out(number, self._listed_instances(number), InputError(problem))
        small = len(own) <= HEADER_CHECK_LIMIT
        counts = {number: count for number in own if (count := self._check(number, small)) is not None}
        if not counts:
            raise InputError(f"{root}: none of the {len(own)} images can be used; put others there")
        self._numbers, self._instance_counts = list(counts), counts

    def __len__(self) -> int:
        """Number of images."""
        return len(self._numbers)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`data.exclusions.REASONS` applied; some grow as samples are read."""
        return self._rules.skipped.counts

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image, uint8 ``[H, W, 3]`` RGB.

        Raises:
            UnreadableImage: it is missing or damaged, and such are skipped.
            InputError: likewise, where such are refused.
        """
        path = self._images[self._numbers[index]]
        try:
            image = read_image(path)
        except InputError as problem:
            self._check_hashed(path)
            raise self._left_out(index, problem) from None
        self._check_hashed(path)
        return image

    @property
    def refused(self) -> Collection[int]:
        """The ids of images that were refused when they were read."""
        return self._rules.skipped.refused

    def instance_count(self, index: int) -> int:
        """How many instances of an image the rules admit; some may show no pixel when they are read."""
        return self._instance_counts[self._numbers[index]]

    def without_point(self, index: int) -> int | None:
        """The id of an instance of an image that does not name the point it was made from; None if all do."""
        return self._without_point.get(self._numbers[index])

    def image_name(self, index: int) -> str:
        """The file name, ``sa_<number>.jpg``."""
        return self._images[self._numbers[index]].name

    def image_id(self, index: int) -> int:
        """The number in an image's name."""
        return self._numbers[index]

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return self._images[self._numbers[index]]

    def annotation_file(self, index: int) -> Path | None:
        """The JSON beside an image; None where there is none."""
        return self._sources.get(self._numbers[index])

    def sample(self, index: int) -> ImageSample:
        """The image with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            UnreadableImage, InputError: as :meth:`image`; likewise if it is not of the listed size.
            InputError: there are no labels.
        """
        if not self._labels:
            raise InputError("SA-1B was opened without annotations; use labels=True to read instances")
        number = self._numbers[index]
        # Rules of its own, so that nothing is counted again.
        again = Rules(unusable=self._unusable)
        again.categorised = self._rules.categorised
        source, size_hw, raws = self._opened(number)
        self._check_hashed(source)
        instances = _admitted(raws, size_hw, source, again)
        image, path = self.image(index), self._images[number]
        try:
            require_size(path, (image.shape[0], image.shape[1]), size_hw, source)
        except InputError as problem:
            raise self._left_out(index, problem) from None
        return self._rules.sample(number, path.name, image, instances, source)

    def _left_out(self, index: int, problem: InputError) -> UnreadableImage:
        """What to raise about an image, once it is counted; raises ``problem`` where such are refused."""
        number = self._numbers[index]
        self._rules.skipped.leave_out(number, self._instance_counts[number], problem)
        return UnreadableImage(str(problem))

    def _check(self, number: int, with_header: bool) -> int | None:
        """Read what can be checked before the first sample; how many instances there are, None if it is left out."""
        path, count = self._images[number], 0
        found_hw: tuple[int, int] | None = None
        problems: list[InputError] = []
        if with_header:
            try:
                found_hw = image_size(path)
            except InputError as problem:
                problems.append(problem)
        if self._labels and number not in self._sources:
            missing = path.with_suffix(".json")
            problems.append(InputError(f"{missing}: no such file beside its image; fetch it"))
        elif self._labels:
            try:
                source, listed_hw, raws = self._opened(number)
            except InputError as problem:
                self._rules.skipped.leave_out(number, 0, problem)
                return None
            instances = _admitted(raws, listed_hw, source, self._rules)
            count = len(instances)
            if pointless := [instance.annotation_id for instance in instances if instance.point_xy is None]:
                self._without_point[number] = pointless[0]
            self._rules.skipped.count("image_without_instances", int(not count))
            if found_hw is not None and found_hw != listed_hw:
                problems.append(wrong_size(path, found_hw, listed_hw, source))
        if problems:
            self._rules.skipped.leave_out(number, count, problems[0])
            return None
        return count

    def _listed_instances(self, number: int) -> int:
        """How many instances the JSON of an image has that is not there; 0 where nobody can know."""
        try:
            source, size_hw, raws = self._opened(number)
        except InputError:
            return 0
        return len(_admitted(raws, size_hw, source, self._rules))

    def _opened(self, number: int) -> tuple[Path, tuple[int, int], list[object]]:
        """The JSON of an image: its path, the size it lists, and its annotations as they are."""
        source = self._sources[number]
        content = read_json(source)
        header, raws = value(content, "image", str(source)), value(content, "annotations", str(source))
        if not isinstance(raws, list):
            raise InputError(f'{source}: "annotations" is not a list; fetch the file again')
        return source, listed_size(header, f"{source}: image"), raws


def _admitted(raws: list[object], size_hw: tuple[int, int], source: Path, rules: Rules) -> list[Instance]:
    """The annotations of a file that the rules admit."""
    admitted = [rules.admit(raw, lambda *_: size_hw, source) for raw in raws]
    return [instance for instance in admitted if instance is not None]
