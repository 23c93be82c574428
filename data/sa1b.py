"""SA-1B: ``sa_<number>.jpg`` with one ``sa_<number>.json`` each, in tar archives, in folders, or in both."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core import distributed
from core.errors import InputError
from data.annotation_file import listed_size
from data.box_form import require_sides
from data.content import ReadFromFiles
from data.images import HEADER_CHECK_LIMIT, image_size, read_for_frame, read_image, require_size, wrong_size
from data.instances import Instance, Rules
from data.json_fields import read_json, value
from data.sa1b_annotations import plain_file, plain_masks
from data.sa1b_files import find_files
from data.sa1b_index import label_index
from data.sample import EncodedSample, ImageSample, ScaledImage, UnreadableImage
from data.subset import Subset
from data.tar_members import File

T = TypeVar("T")
SPLITS = ("train", "validation", "all")


class Sa1b(ReadFromFiles):
    """The images of one split, ordered by number, with their instances (an :class:`data.sample.ImageData`).

    SA-1B has no official splits. Here the last ``validation_count`` images, but at most half of all, are
    ``"validation"``, and the others are ``"train"``. Where training and validation lie in folders of their own, as
    SlimSAM has them, ``"all"`` takes the whole of either. Images alone decide, so the split is the same with and
    without labels. Annotations are checked at construction and read again with each sample: together they fill the
    memory.

    A part of the images (``names``, ``share``, ``count``, ``subset_seed``: see :class:`data.subset.Subset`) is taken of
    the split, so a part of training holds no image of validation. The split itself is by name, too: of any part of
    SA-1B's files that has twice ``validation_count`` images, training has none that is validation in the whole.

    Args:
        root: folder of the files, or of shards (``sa_000000.tar``, ``sa_000000/`` ...) that hold them, at any depth.
        split: ``"validation"``, ``"train"`` or ``"all"``.
        validation_count: how many images are kept for validation.
        labels: False reads no JSON, and :meth:`sample` refuses.
        missing: images that are missing, damaged, of another size than listed or without a JSON that can be read are
            refused (``"refuse"``), or left out and counted with their instances (``"skip"``). They count in the split.
        unusable: annotations that cannot be used are refused, or left out and counted, likewise.
        names, share, count, subset_seed: of the part that is taken.

    Raises:
        InputError: no images, an annotation that cannot be used and is refused, an id that occurs twice, a value is
            none of those above, or an image without its JSON, a JSON that is damaged or without its image, or an
            image that is unreadable or of another size than listed, or an archive that is damaged, and is refused.
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
        names: Path | str | None = None,
        share: float | None = None,
        count: int | None = None,
        subset_seed: int = 0,
    ) -> None:
        self._missing, self._unusable = missing, unusable
        self._rules = Rules(missing=missing, unusable=unusable)
        if split not in SPLITS:
            raise InputError(f'SA-1B has no split "{split}"; choose one of {", ".join(SPLITS)}')
        if validation_count < 1:
            raise InputError(f"validation_count is {validation_count}; keep at least 1 image for validation")
        subset = Subset(None if names is None else Path(names), share, count, subset_seed)
        listed = subset.listed()
        files = distributed.from_main(lambda: find_files(Path(root)))
        self._images, self._sources, self._others = files.images, files.sources, files.others
        self._labels = labels
        numbers = sorted(self._images)
        kept = len(numbers) - min(validation_count, len(numbers) // 2)
        own = {"train": numbers[:kept], "validation": numbers[kept:], "all": numbers}[split]
        if not own:
            problem = f'{len(numbers)} image(s) leave none for "{split}"'
            raise InputError(f"{root}: {problem}; put at least 2 there, or give split=all")
        own = subset.of(own, listed)
        first_held_out = numbers[kept] if kept < len(numbers) else None
        orphans = []
        for number in sorted((self._sources.keys() if labels else set()) | (listed or set())):
            its_split = "train" if first_held_out is None or number < first_held_out else "validation"
            if number not in self._images and (split in ("all", its_split) or missing != "skip"):
                orphans += [number] if subset.may_have(number, listed) else []
        self._damaged = [InputError(f"{path}: {flaw}; fetch it again") for path, flaw in sorted(files.damaged.items())]
        self._numbers, self._instance_counts = self._checked(own, orphans)
        if not own:
            what = f"data.share={share}" if names is None else f"data.names={names}"
            raise InputError(f"{what}: takes none of the images of this split; take more")
        if not self._numbers:
            raise InputError(f"{root}: none of the {len(own)} images can be used; put others there")

    def _checked(self, own: Sequence[int], orphans: Sequence[int]) -> tuple[list[int], dict[int, int]]:
        """Check images as far as they are before the first sample; those that can be used, and their instances."""
        plain: dict[int, tuple[int, tuple[int, int], int]] = {}
        ids = np.zeros(0, np.int64)
        if self._labels:
            sources = {number: self._sources[number] for number in own if number in self._sources}
            index = distributed.from_main(lambda: label_index(sources))
            ids = index.ids
            rows = index.rows[index.rows["count"] >= 0]
            fields = zip(
                *(rows[name].tolist() for name in ("number", "count", "height", "width", "clipped")), strict=True
            )
            plain = {number: (count, (height, width), clipped) for number, count, height, width, clipped in fields}
        found = self._counted(own, orphans, plain)
        seen = self._rules.seen
        # Written this way as numpy's own search for what is distinct takes many times as long.
        repeated = bool((np.diff(np.sort(ids)) == 0).any()) or (bool(seen) and not seen.isdisjoint(ids.tolist()))
        if plain and (repeated or self._rules.categorised):
            # One after the other, so that the first that does not fit in is named.
            self._rules = Rules(missing=self._missing, unusable=self._unusable)
            found = self._counted(own, orphans, {})
        return list(found), found

    def _counted(
        self, own: Sequence[int], orphans: Sequence[int], plain: Mapping[int, tuple[int, tuple[int, int], int]]
    ) -> dict[int, int]:
        """How many instances each image has that is not left out."""
        self._without_point: dict[int, int] = {}
        self._rules.skipped.count("other_file", self._others)
        for place, problem in enumerate(self._damaged, 1):
            self._rules.skipped.leave_out(-place, 0, problem)
        for number in orphans:
            source = self._sources.get(number)
            path = f"sa_{number}.jpg" if source is None else str(source).rpartition(".")[0] + ".jpg"
            why = "listed, but no such image is there; fetch it or take the name out"
            if source is not None:
                why = "no such image file beside its JSON; fetch the image or remove the JSON"
            instances = 0 if source is None else self._listed_instances(number)
            self._rules.skipped.leave_out(number, instances, InputError(f"{path}: {why}"))
        # Only in the order of the images the first that cannot be used is named.
        small, counts = len(own) <= HEADER_CHECK_LIMIT, {}
        if own and plain.get(own[0], (0,))[0]:
            self._rules.categorised = False
        for number in own:
            known = plain.get(number)
            count = known[0] if known is not None and not small else self._check(number, small, known)
            if count is not None:
                counts[number] = count
        for count, _, clipped in plain.values():
            self._rules.skipped.count("image_without_instances", int(not count))
            self._rules.skipped.count("clipped_box", clipped)
        return counts

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
        return self._read(index, read_image)

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

    def image_file(self, index: int) -> File:
        """The file of an image."""
        return self._images[self._numbers[index]]

    def annotation_file(self, index: int) -> File | None:
        """The JSON beside an image; None where there is none."""
        return self._sources.get(self._numbers[index])

    def sample(self, index: int) -> ImageSample:
        """The image with its instances in annotation order; instances whose mask is empty are left out.

        Raises:
            UnreadableImage, InputError: as :meth:`image`; likewise if it is not of the listed size.
            InputError: there are no labels.
        """
        self._require_labels()
        number = self._numbers[index]
        source, size_hw, instances = self._instances(number)
        image, path = self.image(index), self._images[number]
        self._require_listed(index, (image.shape[0], image.shape[1]), size_hw, source)
        return self._rules.sample(number, path.name, image, instances, source)

    def training_image(self, index: int, frame: int) -> ScaledImage:
        """See :meth:`data.content.ReadFromFiles.training_image`; by :func:`data.images.read_for_frame`."""
        return self._read(index, lambda path: read_for_frame(path, frame))

    def training_sample(self, index: int, frame: int) -> EncodedSample:
        """See :meth:`data.content.ReadFromFiles.training_sample`."""
        self._require_labels()
        source = self._sources[self._numbers[index]]
        plain = plain_file(source)
        masks = None if plain is None else plain_masks([plain])[0]
        if plain is None or masks is None:
            source, size_hw, instances = self._instances(self._numbers[index])
            image = self.training_image(index, frame)
            self._require_listed(index, image.size_hw, size_hw, source)
            return self._rules.encoded(image, instances, source)
        self._check_hashed(source)
        image = self.training_image(index, frame)
        self._require_listed(index, image.size_hw, plain.size_hw, source)
        filled = np.flatnonzero(masks.areas())
        for annotation_id in plain.ids[np.setdiff1d(np.arange(len(masks)), filled)].tolist():
            self._rules.skipped.count_once("empty_mask", annotation_id)
        return EncodedSample(image, plain.boxes_xyxy[filled], masks.only(filled))

    def _require_labels(self) -> None:
        if not self._labels:
            raise InputError("SA-1B was opened without annotations; use labels=True to read instances")

    def _read(self, index: int, read: Callable[[File], T]) -> T:
        path = self._images[self._numbers[index]]
        try:
            found = read(path)
        except InputError as problem:
            self._check_hashed(path)
            raise self._left_out(index, problem) from None
        self._check_hashed(path)
        return found

    def _instances(self, number: int) -> tuple[File, tuple[int, int], list[Instance]]:
        """The JSON of an image, the size it lists, and the instances that the rules admit."""
        # Rules of its own, so that nothing is counted again.
        again = Rules(unusable=self._unusable)
        again.categorised = self._rules.categorised
        try:
            source, size_hw, raws = self._opened(number)
        finally:
            # Of a file that was changed that is said, whatever is wrong with it.
            self._check_hashed(self._sources[number])
        return source, size_hw, _admitted(raws, size_hw, source, again)

    def _require_listed(self, index: int, found_hw: tuple[int, int], listed_hw: tuple[int, int], source: File) -> None:
        try:
            require_size(self._images[self._numbers[index]], found_hw, listed_hw, source)
        except InputError as problem:
            raise self._left_out(index, problem) from None

    def _left_out(self, index: int, problem: InputError) -> UnreadableImage:
        """What to raise about an image, once it is counted; raises ``problem`` where such are refused."""
        number = self._numbers[index]
        self._rules.skipped.leave_out(number, self._instance_counts[number], problem)
        return UnreadableImage(str(problem))

    def _check(self, number: int, with_header: bool, known: tuple[int, tuple[int, int], int] | None) -> int | None:
        """Read what can be checked before the first sample; how many instances there are, None if it is left out.

        Args:
            known: instances, listed size and cut boxes, where the JSON need not be read again.
        """
        path, count = self._images[number], 0
        found_hw: tuple[int, int] | None = None
        problems: list[InputError] = []
        if with_header:
            try:
                found_hw = image_size(path)
            except InputError as problem:
                problems.append(problem)
        if known is not None:
            count, listed_hw, _ = known
            if found_hw is not None and found_hw != listed_hw:
                problems.append(wrong_size(path, found_hw, listed_hw, self._sources[number]))
        elif self._labels and number not in self._sources:
            missing = str(path).rpartition(".")[0] + ".json"
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

    def _opened(self, number: int) -> tuple[File, tuple[int, int], list[object]]:
        """The JSON of an image: its path, the size it lists, and its annotations as they are."""
        source = self._sources[number]
        content = read_json(source)
        header, raws = value(content, "image", str(source)), value(content, "annotations", str(source))
        if not isinstance(raws, list):
            raise InputError(f'{source}: "annotations" is not a list; fetch the file again')
        return source, listed_size(header, f"{source}: image"), raws


def _admitted(raws: list[object], size_hw: tuple[int, int], source: File, rules: Rules) -> list[Instance]:
    """The annotations of a file that the rules admit.

    Raises:
        InputError: as :meth:`data.instances.Rules.admit` and :func:`data.box_form.require_sides`.
    """
    admitted = ((rules.admit(raw, lambda *_: size_hw, source), raw) for raw in raws)
    pairs: list[tuple[Instance, Any]] = [(instance, raw) for instance, raw in admitted if instance is not None]
    require_sides(((one.annotation_id, raw["bbox"], one.segmentation, size_hw) for one, raw in pairs), source)
    return [instance for instance, _ in pairs]
