"""The one loop over images and prompts: each image is encoded once, each prompt decoded once, for all protocols."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core import distributed
from core.errors import InputError, RunFailed
from core.feature_maps import Features
from core.protocols import ImageSegmenter, Prompt, Segmenter, device_of
from data.detections import Detections, ImageDetections
from data.sample import ImageData, ImageSample
from evaluation.adaptive_batch import AdaptiveBatch, image_batch, prompt_batch
from evaluation.mask_measures import run_lengths, stability_of
from evaluation.predictions import Predictions, choose, chosen_masks, predict_with_clicks, prompts_of
from evaluation.preprocess import (
    DEFAULT_PREPROCESSING,
    LoadedImage,
    check_preprocessing,
    load_images,
    most_prompts,
    preprocess,
    truth_in_frame,
)
from evaluation.protocols import ScoringProtocol
from evaluation.records import DetectionRecord, ImageRecords, InstanceRecord, PartFile, PartialRecords, read_parts

Model = Segmenter | ImageSegmenter
Embeddings = Mapping[tuple[str, str], Any]
"""``[1, C, g, g]``, or what ``encode_image`` gave, by :attr:`ScoringProtocol.preprocessing`."""


@dataclass(frozen=True)
class Scored:
    """The records of all images.

    Attributes:
        records: by protocol, in the order of the images, within an image in that of its annotations or detections.
        skipped: what the rules of data set and detections left out, by reason.
        images: how many were to be scored.
        left_out: the places of those that could not be read.
    """

    records: dict[str, list[InstanceRecord | DetectionRecord]]
    skipped: dict[str, int]
    images: int
    left_out: frozenset[int] = frozenset()

    def instances(self, protocol: str) -> list[InstanceRecord]:
        """The records of a protocol that is compared with ground truth."""
        return [record for record in self.records[protocol] if isinstance(record, InstanceRecord)]

    def detected(self, protocol: str) -> list[DetectionRecord]:
        """The records of a protocol that takes a detector's boxes."""
        return [record for record in self.records[protocol] if isinstance(record, DetectionRecord)]


@dataclass
class Scorer:
    """Scores a model under several protocols; after training, while a stage validates, and for ``evaluate``.

    Attributes:
        model: in evaluation mode. One that takes images as they are gets them so, and not frames.
        protocols: all that are scored in one pass.
        detections: a detector's boxes, of protocols that take them.
        reference: the model whose answers are the truth, of protocols that say so.
        prompt_batch_size: prompts decoded together.
        image_batch_size: images encoded together.
        workers: processes that read images ahead.
        seed: of what protocols draw.
        autocast: what the model computes in, or None.

    Raises:
        InputError: a protocol needs what is not given, or is not for this model (:func:`check_preprocessing`).
    """

    model: Model
    protocols: Sequence[ScoringProtocol]
    detections: Detections | None = None
    reference: Model | None = None
    prompt_batch_size: int = 64
    image_batch_size: int = 1
    workers: int = 0
    seed: int = 0
    autocast: torch.dtype | None = None
    prompt_batch: AdaptiveBatch = field(init=False)

    def __post_init__(self) -> None:
        self._detected = [protocol for protocol in self.protocols if protocol.is_detected]
        self._prompted = [protocol for protocol in self.protocols if not protocol.is_detected]
        if self._detected and self.detections is None:
            raise InputError(f"{self._detected[0].name} needs a detector's boxes; give detections=FILE")
        if any(protocol.truth == "reference" for protocol in self.protocols) and self.reference is None:
            raise InputError("a protocol compares with another model's masks; give evaluation.reference=NAME")
        check_preprocessing(self.model, self.protocols)
        self.prompt_batch, self._image_batch = prompt_batch(self.prompt_batch_size), image_batch(self.image_batch_size)

    def score(
        self,
        data: ImageData,
        indices: Sequence[int] | None = None,
        *,
        partial: PartialRecords | None = None,
        alone: bool = False,
        on_image: Callable[[int], None] | None = None,
        for_main: bool = False,
    ) -> Scored:
        """Score images. Under ``torchrun`` each process scores its share, and all return the records of all.

        Args:
            indices: of the images; all of them by default.
            partial: where finished images are kept until the end; None keeps nothing.
            alone: this process scores all of it, whatever the others do.
            on_image: called with the number of images that this process has done.
            for_main: with ``partial``, the first process alone reads the records of all; the others return none.

        Raises:
            OutOfDeviceMemory: one image or one prompt alone needs more memory than the device has.
            RunFailed: a process that reads images died.
            NotWritten: the folder takes no more.
        """
        chosen = range(len(data)) if indices is None else indices
        before = {reason: count for reason, count in data.skipped.items() if count}
        rank, count = (0, 1) if alone else (distributed.rank(), distributed.count())
        # A process is given its share by the first one, which alone needs to know what is done.
        is_blind = for_main and partial is not None and rank > 0
        known = {} if partial is None or is_blind else partial.finished(partial.folder, len(chosen))
        if count > 1:
            # Nobody writes before everybody has read.
            distributed.barrier()
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            part = None
            if partial is not None:
                part = stack.enter_context(PartFile(partial.folder, rank, partial.key))
                if rank == 0:
                    partial.take_over(known, len(chosen), part)
            left = [pair for pair in enumerate(chosen) if pair[0] not in known]
            if count > 1:
                # By the first process's count: it alone has taken over, and all share that.
                left = distributed.from_main(lambda: left)
            if self.autocast is not None:
                stack.enter_context(torch.autocast(device_of(self.model).type, self.autocast))
            done = len(known)
            for images in self._loaded(data, left[rank::count]):
                for image in self._score(data, images, partial.contents if partial else ()):
                    if not is_blind:
                        known[image.place] = image
                    if part is not None:
                        part.add(image)
                    done += 1
                    if on_image is not None:
                        on_image(done)
        if count > 1:
            known = self._of_all(known, len(chosen), partial, is_blind)
        return self._together(known, before, len(chosen))

    def masks(
        self, sample: ImageSample, protocol: ScoringProtocol, places: Sequence[int]
    ) -> tuple[NDArray[np.bool_], list[float]]:
        """The masks behind the records of some instances, made again: bool ``[N, H, W]``, and their IoUs.

        Args:
            protocol: one whose truth is the annotation's mask, not a reference model's.
            places: of the instances in the image.
        """
        if protocol.truth == "reference":
            raise ValueError(f"{protocol.name} takes its truth from a reference model")
        size_hw = (sample.image.shape[0], sample.image.shape[1])
        frames = {}
        if not isinstance(self.model, ImageSegmenter):
            frames = {protocol.preprocessing: preprocess(sample.image, self.model.input_size, protocol.preprocessing)}
        with torch.inference_mode():
            loaded = LoadedImage(0, 0, size_hw, sample, frames, {}, sample.image)
            embeddings = {name: parts[0] for name, parts in self._embeddings(self.model, [loaded]).items()}
            prompts = prompts_of(sample, protocol, self.seed)
            found = []
            for place in places:
                part = slice(place, place + 1)
                predictions = self._predict(sample, part, protocol, prompts[part], embeddings)
                truth = self._truth(sample, part, predictions, protocol, None)
                found += list(choose(predictions, protocol, truth))
        masks = np.concatenate([(chosen.logits > 0).cpu().numpy() for chosen in found])
        return masks, [iou for chosen in found if chosen.iou is not None for iou in chosen.iou.tolist()]

    def score_sample(
        self, sample: ImageSample, embeddings: Embeddings, of_reference: Any = None
    ) -> dict[str, list[InstanceRecord]]:
        """The records of one image's instances, by protocol.

        Args:
            of_reference: the reference model's embedding.
        """
        records: dict[str, list[InstanceRecord]] = {protocol.name: [] for protocol in self._prompted}
        prompts: dict[tuple[object, ...], Prompt] = {}

        def score_part(part: slice) -> dict[str, list[InstanceRecord]]:
            found: dict[str, list[InstanceRecord]] = {}
            known: dict[tuple[object, ...], Predictions] = {}
            for protocol in self._prompted:
                # Protocols of equal prompts share the answers; those of several clicks part where their choices do.
                prompt = (protocol.prompt, protocol.jitter, *protocol.preprocessing)
                key = prompt if protocol.clicks == 1 else (*prompt, protocol.name)
                if prompt not in prompts:
                    prompts[prompt] = prompts_of(sample, protocol, self.seed)
                if key not in known:
                    known[key] = self._predict(sample, part, protocol, prompts[prompt][part], embeddings)
                found[protocol.name] = list(self._instances(known[key], sample, part, protocol, of_reference))
            return found

        if len(sample.masks):
            limit = most_prompts(self.model, (sample.image.shape[0], sample.image.shape[1]))
            for _, found in self.prompt_batch.parts(len(sample.masks), score_part, limit):
                for name, part_records in found.items():
                    records[name] += part_records
        return records

    def score_boxes(
        self, image_id: int, size_hw: tuple[int, int], boxes: ImageDetections, embeddings: Embeddings
    ) -> dict[str, list[DetectionRecord]]:
        """The records of one image's detected boxes, by protocol, in the order of the boxes.

        Args:
            size_hw: of the original image.
        """
        records: dict[str, list[DetectionRecord]] = {protocol.name: [] for protocol in self._detected}
        boxes_xyxy = torch.from_numpy(boxes.boxes_xyxy).float()

        def score_part(part: slice) -> dict[str, list[DetectionRecord]]:
            known: dict[tuple[str, str], Predictions] = {}
            found: dict[str, list[DetectionRecord]] = {protocol.name: [] for protocol in self._detected}
            for protocol in self._detected:
                how = protocol.preprocessing
                if how not in known:
                    prompt = Prompt(boxes_xyxy=boxes_xyxy[part])
                    known[how] = Predictions(self.model, embeddings[how], prompt, size_hw, protocol.rounding)
                for chosen in choose(known[how], protocol):
                    figures = (chosen.iou_pred.float(), chosen.index, stability_of(chosen.logits, chosen.windows))
                    columns = (run_lengths(chosen.logits, chosen.windows), *(column.tolist() for column in figures))
                    for i, values in enumerate(zip(*columns, strict=True), part.start + chosen.place.start):
                        ids = (image_id, int(boxes.category_ids[i]), int(boxes.indices[i]), float(boxes.scores[i]))
                        found[protocol.name].append(DetectionRecord(*ids, list(size_hw), *values))
            return found

        # However many boxes there are, no more answers than these are in memory at a time.
        for _, found in self.prompt_batch.parts(len(boxes_xyxy), score_part, most_prompts(self.model, size_hw)):
            for name, part_records in found.items():
                records[name] += part_records
        return records

    def _loaded(self, data: ImageData, places: Sequence[tuple[int, int]]) -> Iterator[list[LoadedImage]]:
        models = [model for model in (self.model, self.reference) if model is not None]
        sizes = [model.input_size for model in models if not isinstance(model, ImageSegmenter)]
        hows: list[tuple[str, str]] = []
        if not isinstance(self.model, ImageSegmenter):
            hows += dict.fromkeys(protocol.preprocessing for protocol in self.protocols)
        reference_is_framed = self.reference is not None and not isinstance(self.reference, ImageSegmenter)
        if reference_is_framed and DEFAULT_PREPROCESSING not in hows:
            hows.append(DEFAULT_PREPROCESSING)
        return load_images(
            data,
            places,
            sizes[0] if sizes else 0,
            hows,
            bool(self._prompted),
            self.image_batch_size,
            self.workers,
            with_images=len(sizes) < len(models),
            every=bool(self._detected),
        )

    def _score(self, data: ImageData, images: list[LoadedImage], contents: Sequence[str]) -> list[ImageRecords]:
        """Images that were loaded together."""
        embeddings = self._embeddings(self.model, images)
        references = self._embeddings(self.reference, images) if self.reference is not None else {}
        found = []
        for number, image in enumerate(images):
            content = contents[image.place] if contents else ""
            records = ImageRecords(image.place, {p.name: [] for p in self.protocols}, dict(image.skipped), content)
            own = {how: parts[number] for how, parts in embeddings.items() if number in parts}
            if image.sample is not None and own:
                of_reference = references[DEFAULT_PREPROCESSING][number] if references else None
                scored = self.score_sample(image.sample, own, of_reference)
                records.records |= {name: list(part) for name, part in scored.items()}
            if self.detections is not None and self._detected and image.size_hw is not None and own:
                image_id = data.image_id(image.index)
                boxes = self.score_boxes(image_id, image.size_hw, self.detections.of(image_id), own)
                records.records |= {name: list(part) for name, part in boxes.items()}
            found.append(records)
        return found

    def _embeddings(self, model: Model, images: list[LoadedImage]) -> dict[tuple[str, str], dict[int, Any]]:
        """By preprocessing, and by the image's number: ``[1, C, g, g]``, or what ``encode_image`` gives."""
        if isinstance(model, ImageSegmenter):
            shown = {number: image.image for number, image in enumerate(images) if image.image is not None}
            return {DEFAULT_PREPROCESSING: {number: model.encode_image(image) for number, image in shown.items()}}
        device, found = device_of(model), {}
        for how in {how for image in images for how in image.frames}:
            numbers = [number for number, image in enumerate(images) if how in image.frames]
            frames = torch.stack([images[number].frames[how] for number in numbers])

            def encoded(part: slice, frames: Tensor = frames) -> tuple[Features, ...]:
                return model.encode(frames[part].to(device)).split(1)

            parts = self._image_batch.parts(len(numbers), encoded)
            found[how] = dict(zip(numbers, (one for _, some in parts for one in some), strict=True))
        return found

    def _predict(
        self, sample: ImageSample, part: slice, protocol: ScoringProtocol, prompt: Prompt, embeddings: Embeddings
    ) -> Predictions:
        """The answers to some instances' prompts, after all clicks."""
        size_hw, truth = (sample.image.shape[0], sample.image.shape[1]), torch.from_numpy(sample.masks[part])
        return predict_with_clicks(self.model, embeddings[protocol.preprocessing], prompt, size_hw, protocol, truth)

    def _instances(
        self, predictions: Predictions, sample: ImageSample, part: slice, protocol: ScoringProtocol, of_reference: Any
    ) -> Iterator[InstanceRecord]:
        """One record an instance of a part."""
        truth = self._truth(sample, part, predictions, protocol, of_reference)
        for chosen in choose(predictions, protocol, truth):
            assert chosen.iou is not None
            figures = (chosen.iou, chosen.iou_pred.float(), chosen.index, stability_of(chosen.logits, chosen.windows))
            columns = zip(*(column.tolist() for column in figures), strict=True)
            for i, (iou, predicted, index, stability) in enumerate(columns, part.start + chosen.place.start):
                category = sample.category_ids[i] if sample.category_ids else None
                ids = (sample.image_id, sample.annotation_ids[i], float(sample.areas[i]))
                yield InstanceRecord(*ids, iou, predicted, index, stability, category)

    def _truth(
        self, sample: ImageSample, part: slice, predictions: Predictions, protocol: ScoringProtocol, of_reference: Any
    ) -> Callable[[slice], Tensor]:
        """Ground truth bool ``[n, H, W]`` of some of the part's instances."""
        masks = torch.from_numpy(sample.masks[part])
        if protocol.truth == "original":
            return lambda place: masks[place]
        if protocol.truth == "frame":
            # check_preprocessing has refused others.
            assert not isinstance(self.model, ImageSegmenter)
            frame = self.model.input_size
            return lambda place: truth_in_frame(masks[place], frame)
        reference = self.reference
        assert reference is not None and of_reference is not None

        def by_reference(place: slice) -> Tensor:
            answers = Predictions(reference, of_reference, predictions.prompt[place], predictions.size_hw)
            return chosen_masks(answers, protocol)

        return by_reference

    def _of_all(
        self, known: dict[int, ImageRecords], images: int, partial: PartialRecords | None, is_blind: bool
    ) -> dict[int, ImageRecords]:
        """The images of all processes; none in a process that is not to read their files."""
        if partial is None:
            return {place: image for part in distributed.from_all(known) for place, image in part.items()}
        distributed.barrier()
        if is_blind:
            return {}
        found = read_parts(partial.folder, partial.key, partial.contents)
        if len(found) < images:
            problem = f"{images - len(found)} of {images} images are in no file of {partial.folder}"
            raise RunFailed(f"{problem}; give the same command again, which scores them")
        return found

    def _together(self, known: dict[int, ImageRecords], before: dict[str, int], images: int) -> Scored:
        records: dict[str, list[InstanceRecord | DetectionRecord]] = {p.name: [] for p in self.protocols}
        skipped = dict(before)
        for place in sorted(known):
            for name, part in known[place].records.items():
                records[name] += part
            for reason, count in known[place].skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        if self.detections is not None:
            skipped |= {reason: count for reason, count in self.detections.skipped.items() if count}
        left_out = frozenset(place for place, image in known.items() if image.is_left_out)
        return Scored(records, skipped, images, left_out)
