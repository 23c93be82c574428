"""One pass over a data set: every picture encoded once, scored under all protocols, by any number of processes."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import processes
from core.errors import InputError, RunFailed
from core.protocols import PictureSegmenter, Segmenter, device_of
from data.detections import Detections
from data.sample import ImageData
from evaluation.detected import DetectionRecord, answer_detections
from evaluation.fitting import pictures_fitting
from evaluation.framing import USUAL_FRAMING, check_framing
from evaluation.instances import InstanceRecord, PictureScorer
from evaluation.loading import LoadedPicture, loaded_pictures
from evaluation.record_files import PartFile, PictureRecords, read_parts
from evaluation.scoring_protocol import ScoringProtocol


@dataclass(frozen=True)
class Scored:
    """What a pass gave.

    Attributes:
        records: by protocol, in the order of the pictures, within a picture in that of its annotations or detections.
        skipped: what the rules of data set and detections left out, by reason.
        pictures: how many were asked for.
        left_out: the places of those that could not be read.
    """

    records: dict[str, list[InstanceRecord | DetectionRecord]]
    skipped: dict[str, int]
    pictures: int
    left_out: frozenset[int] = frozenset()

    def instances(self, protocol: str) -> list[InstanceRecord]:
        """The records of a protocol that is compared with ground truth."""
        return [record for record in self.records[protocol] if isinstance(record, InstanceRecord)]

    def detected(self, protocol: str) -> list[DetectionRecord]:
        """The records of a protocol that takes a detector's boxes."""
        return [record for record in self.records[protocol] if isinstance(record, DetectionRecord)]


@dataclass
class EvaluationPass:
    """Scores a model on pictures of a data set.

    Attributes:
        model: in evaluation mode. One that takes pictures as they are gets them so, and not frames.
        indices: of the pictures.
        detections: a detector's boxes, of protocols that take them.
        reference: the model whose answers are the truth, of protocols that say so.
        batch: prompts decoded together.
        encoded: pictures encoded together.
        workers: processes that read pictures ahead.
        seed: of what protocols draw.
        folder: where what is done is kept until the end; None keeps nothing.
        beside: folders of earlier passes; what they have done under this key and content counts too.
        key: what a pass must share with an earlier one to go on where that stopped.
        contents: what each picture and its annotations are, each different; empty where that is not known. A picture
            that an earlier pass scored as something else is scored again.
        autocast: what the model computes in, or None.
        alone: this process scores all of it, whatever the others do.
    """

    model: Segmenter | PictureSegmenter
    data: ImageData
    protocols: Sequence[ScoringProtocol]
    indices: Sequence[int]
    detections: Detections | None = None
    reference: Segmenter | PictureSegmenter | None = None
    batch: int = 64
    encoded: int = 1
    workers: int = 0
    seed: int = 0
    folder: Path | None = None
    beside: Sequence[Path] = ()
    key: str = ""
    contents: Sequence[str] = ()
    autocast: torch.dtype | None = None
    alone: bool = False
    _scorer: PictureScorer = field(init=False)

    def __post_init__(self) -> None:
        self._detected = [protocol for protocol in self.protocols if protocol.is_detected]
        self._prompted = [protocol for protocol in self.protocols if not protocol.is_detected]
        if self._detected and self.detections is None:
            raise InputError(f"{self._detected[0].name} needs a detector's boxes; give detections=FILE")
        if any(protocol.truth == "reference" for protocol in self.protocols) and self.reference is None:
            raise InputError("a protocol compares with another model's masks; give evaluation.reference=NAME")
        check_framing(self.model, self.protocols)
        self._scorer = PictureScorer(self.model, self._prompted, self.batch, self.seed, self.reference)
        self._pictures = pictures_fitting(self.encoded)

    def run(self, on_picture: Callable[[int], None] | None = None) -> Scored:
        """Score all pictures; under ``torchrun`` each process scores its part, and the first one returns all.

        Args:
            on_picture: called with the number of pictures that this process has done.

        Raises:
            OutOfDeviceMemory: one picture or one prompt alone needs more memory than the device has.
            RunFailed: a process that reads pictures died.
            NotWritten: the folder takes no more.
        """
        first = {reason: count for reason, count in self.data.skipped.items() if count}
        known = self._kept(self.folder)
        # Nobody writes before everybody has read.
        self._wait()
        rank, count = (0, 1) if self.alone else (processes.rank(), processes.count())
        part = PartFile(self.folder, rank, self.key) if self.folder is not None else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if part is not None:
                stack.callback(part.close)
                if processes.is_first():
                    self._take_over(known, part)
            left = self._agreed([pair for pair in enumerate(self.indices) if pair[0] not in known])
            if self.autocast is not None:
                stack.enter_context(torch.autocast(device_of(self.model).type, self.autocast))
            done = len(known)
            for pictures in self._loaded(left[rank::count]):
                for picture in self._score(pictures):
                    known[picture.place] = picture
                    if part is not None:
                        part.add(picture)
                    done += 1
                    if on_picture is not None:
                        on_picture(done)
        self._wait()
        if self.folder is not None and count > 1:
            known = read_parts(self.folder, self.key, self.contents)
            if len(known) < len(self.indices):
                problem = (
                    f"{len(self.indices) - len(known)} of {len(self.indices)} images are in no file of {self.folder}"
                )
                raise RunFailed(f"{problem}; give the same command again, which scores them")
        return self._together(known, first)

    def _wait(self) -> None:
        if not self.alone:
            processes.wait()

    def _agreed(self, left: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is left by the first process's count: it alone takes over, and all share that."""
        return left if self.alone else processes.from_first(lambda: left)

    def _kept(self, folder: Path | None) -> dict[int, PictureRecords]:
        """What an earlier pass has done. What it could not read is tried again: it may be refused now."""
        kept = {} if folder is None else read_parts(folder, self.key, self.contents)
        return {p: picture for p, picture in kept.items() if p < len(self.indices) and not picture.is_left_out}

    def _take_over(self, known: dict[int, PictureRecords], part: PartFile) -> None:
        """Add what passes beside this one have done: written here too, as theirs may end and remove it."""
        for folder in self.beside:
            for place, picture in self._kept(folder).items():
                if place not in known:
                    known[place] = picture
                    part.add(picture)

    def _loaded(self, places: Sequence[tuple[int, int]]) -> Iterator[list[LoadedPicture]]:
        models = [model for model in (self.model, self.reference) if model is not None]
        sizes = [model.input_size for model in models if not isinstance(model, PictureSegmenter)]
        framings: list[tuple[str, str]] = []
        if not isinstance(self.model, PictureSegmenter):
            framings += dict.fromkeys(protocol.framing for protocol in self.protocols)
        reference_is_framed = self.reference is not None and not isinstance(self.reference, PictureSegmenter)
        if reference_is_framed and USUAL_FRAMING not in framings:
            framings.append(USUAL_FRAMING)
        return loaded_pictures(
            self.data,
            places,
            sizes[0] if sizes else 0,
            framings,
            bool(self._prompted),
            self.encoded,
            self.workers,
            with_images=len(sizes) < len(models),
            every=bool(self._detected),
        )

    def _score(self, pictures: list[LoadedPicture]) -> list[PictureRecords]:
        """Pictures that were loaded together."""
        embeddings = self._embeddings(self.model, pictures)
        references = self._embeddings(self.reference, pictures) if self.reference is not None else {}
        found = []
        for number, picture in enumerate(pictures):
            content = self.contents[picture.place] if self.contents else ""
            records = PictureRecords(
                picture.place, {p.name: [] for p in self.protocols}, dict(picture.skipped), content
            )
            own = {framing: parts[number] for framing, parts in embeddings.items() if number in parts}
            if picture.sample is not None and own:
                of_reference = references[USUAL_FRAMING][number] if references else None
                scored = self._scorer.score(picture.sample, own, of_reference)
                records.records |= {name: list(part) for name, part in scored.items()}
            if self._detected and picture.size_hw is not None and own:
                records.records |= {name: list(part) for name, part in self._answered(picture, own).items()}
            found.append(records)
        return found

    def _embeddings(
        self, model: Segmenter | PictureSegmenter, pictures: list[LoadedPicture]
    ) -> dict[tuple[str, str], dict[int, Any]]:
        """By framing, and by the picture's number: ``[1, C, g, g]``, or what ``encode_picture`` gives."""
        if isinstance(model, PictureSegmenter):
            shown = {number: picture.image for number, picture in enumerate(pictures) if picture.image is not None}
            return {USUAL_FRAMING: {number: model.encode_picture(image) for number, image in shown.items()}}
        device, found = device_of(model), {}
        framings = {framing for picture in pictures for framing in picture.frames}
        for framing in framings:
            numbers = [number for number, picture in enumerate(pictures) if framing in picture.frames]
            frames = torch.stack([pictures[number].frames[framing] for number in numbers])

            def encoded(part: slice, frames: Tensor = frames) -> tuple[Tensor, ...]:
                return model.encode(frames[part].to(device)).split(1)

            parts = self._pictures.parts(len(numbers), encoded)
            found[framing] = dict(zip(numbers, (one for _, some in parts for one in some), strict=True))
        return found

    def _answered(self, picture: LoadedPicture, own: dict[tuple[str, str], Any]) -> dict[str, list[DetectionRecord]]:
        assert self.detections is not None and picture.size_hw is not None
        image_id = self.data.image_id(picture.index)
        boxes = self.detections.of(image_id)
        return answer_detections(
            self.model, own, image_id, picture.size_hw, boxes, self._detected, self._scorer.fitting
        )

    def _together(self, known: dict[int, PictureRecords], first: dict[str, int]) -> Scored:
        records: dict[str, list[InstanceRecord | DetectionRecord]] = {p.name: [] for p in self.protocols}
        skipped = dict(first)
        for place in sorted(known):
            for name, part in known[place].records.items():
                records[name] += part
            for reason, count in known[place].skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        if self.detections is not None:
            skipped |= {reason: count for reason, count in self.detections.skipped.items() if count}
        left_out = frozenset(place for place, picture in known.items() if picture.is_left_out)
        return Scored(records, skipped, len(self.indices), left_out)
