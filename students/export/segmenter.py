"""An exported model as a segmenter, so that what is scored and timed are the files themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.checkpoint import file_sha256
from core.errors import InputError, first_line
from core.feature_maps import FeatureMaps, Features, maps_of
from core.geometry import Stretched, boxes_to_frame, points_to_frame
from core.memory import is_out_of_memory
from core.protocols import Masks, Prompt
from students.export.checking import written_precision
from students.export.manifest import MANIFEST, read_manifest
from students.export.parts import DECODER_OUTPUTS, ENCODER_INPUT, PROMPT_INPUTS, map_names
from students.export.runtimes import FORMAT_NEEDS, NEEDS, READS, RUNTIMES, Arrays, Run, require
from teachers.sam2 import stable_or_best


class ExportedSam:
    """A promptable segmenter (:class:`core.protocols.Segmenter`) that runs the files of an exported folder on the CPU.

    Args:
        folder: an exported folder.
        runtime: what runs it; None is the format's own.

    Raises:
        InputError: the folder is damaged, or the runtime cannot open its files.
    """

    def __init__(self, folder: Path, runtime: str | None = None) -> None:
        self.manifest = read_manifest(folder)
        known = READS[self.manifest.to]
        self.runtime = known[0] if runtime is None else runtime
        if self.runtime not in known:
            raise InputError(
                f"runtime={runtime}: files exported to={self.manifest.to} run in {', '.join(known)}; choose of these"
            )
        require((*FORMAT_NEEDS[self.manifest.to], *NEEDS[self.runtime]), f"runtime={self.runtime}")
        self._is_sam2 = self.manifest.family == "sam2"
        frame = self.manifest.frame
        self.name, self.input_size = self.manifest.name, Stretched(frame) if self._is_sam2 else frame
        start = RUNTIMES[self.runtime]
        encoder, decoder = self.manifest.encoder, self.manifest.decoder
        # Rows name an exported model by these hashes.
        for name, stated in (encoder.hashes | decoder.hashes).items():
            if file_sha256(folder / name) != stated:
                raise InputError(f"{folder / name}: is not the file that was exported (sha256); export it again")
        for part in (encoder, decoder):
            written = written_precision(folder / part.file)
            if written not in (None, self.manifest.precision):
                raise InputError(
                    f"{folder / part.file}: was written with precision={written}, though {MANIFEST} beside it says "
                    f"{self.manifest.precision}; export it again"
                )
        self._folder, self._maps = folder, map_names(self.manifest.maps)
        self._encode = start(folder / encoder.file, self._maps, encoder.precision)
        self._decode = start(folder / decoder.file, DECODER_OUTPUTS, decoder.precision)

    def encode(self, images: Tensor) -> Features:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]`` (float32), or to several maps.

        Raises:
            InputError: the file computes otherwise than the manifest says.
        """
        batches = [images] if self.manifest.any_batch else images.split(1)
        file = self.manifest.encoder.file
        found = [self._run(self._encode, file, {ENCODER_INPUT: _array(batch)}) for batch in batches]
        batched = (np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))
        maps = [torch.from_numpy(array) for array in batched]
        grid = self.manifest.grid
        for tensor, (channels, scale) in zip(maps, self.manifest.maps.values(), strict=True):
            stated = (len(images), channels, scale * grid, scale * grid)
            if tensor.shape != stated:
                raise self._unlike(file, f"gives a map {list(tensor.shape)}, stated is {list(stated)}")
        return FeatureMaps(dict(zip(self._maps, maps, strict=True))) if len(maps) > 1 else maps[0]

    def decode(self, embedding: Features, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """Answer prompts in original pixels; see :meth:`core.protocols.Segmenter.decode`."""
        logits, iou_pred = self.decode_frame(embedding, *self._points(prompt, size_hw), prompt.mask_logits)
        if self._is_sam2 and not multimask:
            return Masks(*stable_or_best(logits, iou_pred), self.input_size)
        kept = slice(1, None) if multimask else slice(0, 1)
        return Masks(logits[:, kept], iou_pred[:, kept], self.input_size)

    def decode_frame(
        self, embedding: Features, coords: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All four candidates; inputs and outputs as of :meth:`students.export.parts.DecoderPart.forward`.

        Args:
            masks: logits ``[N, 1, 4g, 4g]``, or None.

        Raises:
            InputError: the file computes otherwise than the manifest says.
        """
        side = 4 * self.manifest.grid
        given = torch.zeros(1, 1, side, side) if masks is None else masks
        has_mask = torch.full((len(given),), float(masks is not None))
        if self.runtime == "pytorch":
            # A program of PyTorch insists on one mask a prompt.
            given, has_mask = (part.expand(len(coords), *part.shape[1:]) for part in (given, has_mask))
        inputs = (*maps_of(embedding).values(), coords, labels, given, has_mask)
        names = (*self._maps, *PROMPT_INPUTS)
        file, arrays = self.manifest.decoder.file, {n: _array(part) for n, part in zip(names, inputs, strict=True)}
        logits, iou_pred = (torch.from_numpy(array) for array in self._run(self._decode, file, arrays))
        if logits.shape != (len(coords), 4, side, side) or iou_pred.shape != (len(coords), 4):
            raise self._unlike(file, f"gives masks {list(logits.shape)} and IoUs {list(iou_pred.shape)}")
        return logits, iou_pred

    def _run(self, run: Run, file: str, inputs: Arrays) -> list[NDArray[Any]]:
        """What a file gives; what its runtime cannot run is the file's or the manifest's fault, but for memory."""
        try:
            return run(inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise self._unlike(file, f"fails in {self.runtime} ({first_line(error)})") from error

    def _unlike(self, file: str, what: str) -> InputError:
        return InputError(f"{self._folder / file}: is not as {MANIFEST} beside it says: it {what}; export it again")

    def _points(self, prompt: Prompt, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A prompt's points and boxes as points ``[N, P, 2]`` in the frame, labels ``[N, P]``, padded as SAM does."""
        coords, labels = [torch.zeros(len(prompt), 0, 2)], [torch.zeros(len(prompt), 0)]
        if prompt.points_xy is not None and prompt.labels is not None:
            coords.append(points_to_frame(prompt.points_xy, size_hw, self.input_size))
            labels.append(prompt.labels.float())
        given = prompt.boxes_xyxy is not None or prompt.points_xy is not None
        if given and (prompt.boxes_xyxy is None or self._is_sam2):
            coords.append(torch.zeros(len(prompt), 1, 2))
            labels.append(-torch.ones(len(prompt), 1))
        if prompt.boxes_xyxy is not None:
            corners = boxes_to_frame(prompt.boxes_xyxy, size_hw, self.input_size)
            coords.append(corners.unflatten(-1, (2, 2)))
            labels.append(torch.tensor([2.0, 3.0]).expand(len(prompt), -1))
        return torch.cat(coords, 1), torch.cat(labels, 1)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
