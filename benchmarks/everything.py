"""Segment everything: hierarchical against dense, and dense against segment-anything's generator on the same weights.

``python -m benchmarks.everything``; needs the extra ``test`` (``make test`` installs it). The model is the packaged
``sam_pocket`` on validation images of ``shapes``; its thresholds are lower than SAM's, because the borders of its
masks are as blurred as its grid is coarse, and the same in both strategies. Another ``--model`` gets random weights,
and thresholds that let about half of its masks pass: for the second comparison only. All implementations take turns.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from benchmarks._models import VITS, random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from benchmarks.encoder import encoder_arguments
from core.protocols import Prompt, device_of
from data.sample import ImageSample
from data.shapes import Shapes
from evaluation.everything import Everything, EverythingGenerator, EverythingSettings, image_proposals, proposal_scores
from evaluation.everything.filters import grid_points
from evaluation.predictor import SamPredictor
from teachers.sam import Sam
from teachers.weights import load_sam

Generate = Callable[[NDArray[np.uint8]], list[dict[str, Any]]]
TRAINED = "sam_pocket"


def meta_sam(sam: Sam) -> Any:
    """``segment_anything``'s model with these weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling import Sam as MetaSam

    config, vit = sam.config, sam.config.vit
    encoder = ImageEncoderViT(out_chans=vit.out_channels, **encoder_arguments(sam))
    prompts = PromptEncoder(vit.out_channels, (vit.grid, vit.grid), (vit.image_size, vit.image_size), 16)
    transformer = TwoWayTransformer(2, vit.out_channels, config.decoder_heads, config.decoder_mlp_width)
    decoder = MaskDecoder(
        transformer_dim=vit.out_channels, transformer=transformer, iou_head_hidden_dim=config.iou_width
    )
    model = MetaSam(encoder, prompts, decoder)
    model.load_state_dict(sam.state_dict())
    return model.eval().requires_grad_(False)


def meta_generate(sam: Sam, settings: EverythingSettings, device: torch.device) -> Generate:
    """``segment_anything``'s generator with these weights and settings."""
    from segment_anything import SamAutomaticMaskGenerator

    generator = SamAutomaticMaskGenerator(
        meta_sam(sam).to(device),
        points_per_side=settings.points_per_side,
        points_per_batch=settings.points_per_batch,
        pred_iou_thresh=settings.pred_iou_thresh,
        stability_score_thresh=settings.stability_score_thresh,
        crop_n_layers=settings.crop_n_layers,
        output_mode="coco_rle",
    )
    generate: Generate = generator.generate
    return generate


def random_model(name: str, settings: EverythingSettings, device: torch.device) -> tuple[Sam, EverythingSettings]:
    """A named shape with random weights, and thresholds that about half of its masks pass."""
    sam = random_sam(name)
    predictor = SamPredictor(sam.to(device))
    predictor.set_image(Shapes("validation", 1, size=512).image(0))
    points = torch.from_numpy(grid_points(4, predictor.original_size)).float()[:, None]
    (answer,) = predictor.predict_batch([Prompt(points_xy=points, labels=torch.ones(len(points), 1))])
    # Offsets that mean something at the scale of these logits.
    return sam, replace(
        settings,
        pred_iou_thresh=answer.iou_pred.float().median().item(),
        stability_score_offset=0.01 * answer.logits.float().std().item(),
        stability_score_thresh=0.5,
    )


def alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """How many masks there are, how many are the same to the pixel, and the least IoU of a mask with its own."""
    if not ours or not theirs:
        return f"{len(ours)} and {len(theirs)} masks"
    iou = np.asarray(mask_api.iou(*([r["segmentation"] for r in side] for side in (ours, theirs)), [0] * len(theirs)))
    best = np.concatenate([iou.max(0), iou.max(1)])
    return f"{len(ours)} and {len(theirs)} masks, {(iou.max(1) == 1).sum()} the same, least IoU {best.min():.5f}"


def strategies(sam: Sam, samples: list[ImageSample], each: Mapping[str, EverythingSettings], rounds: int) -> None:
    """Print one line a setting: time, prompts and scores; the first is what the others are compared with."""
    answers: dict[str, list[Everything]] = {}

    def work(name: str, generator: EverythingGenerator) -> None:
        answers[name] = [generator.run(sample.image) for sample in samples]

    works = {name: partial(work, name, EverythingGenerator(sam, settings)) for name, settings in each.items()}
    EverythingGenerator(sam, next(iter(each.values()))).run(samples[0].image)
    seconds = seconds_in_turns(works, device_of(sam), rounds, warmup=0)
    titles = f"{'s/image':>8} {'ratio':>7} {'prompts':>8} {'masks':>6} {'best IoU':>9} {'AR@100':>7} {'AR@1000':>8}"
    print(f"{'strategy':28} {titles}")
    first = seconds[next(iter(each))]
    for name, found in answers.items():
        scores = proposal_scores([image_proposals(a.records, sample) for a, sample in zip(found, samples, strict=True)])
        prompts = mean(answer.prompts for answer in found)
        masks = mean(len(answer.records) for answer in found)
        print(
            f"{name:28} {seconds[name] / len(samples):8.3f} {first / seconds[name]:6.2f}x {prompts:8.1f} {masks:6.1f} "
            f"{scores['mean_best_iou'].value:9.4f} {scores['average_recall_100'].value:7.4f} "
            f"{scores['average_recall_1000'].value:8.4f}"
        )
    share = mean(float(sample.masks.any(0).mean()) for sample in samples)
    print(f"{share:.1%} of the pixels belong to an instance: masks of instances cover no more points than that")


def against_meta(sam: Sam, image: NDArray[np.uint8], settings: EverythingSettings, rounds: int) -> None:
    """Print the times of both generators on an image, their ratio, and how far the masks agree."""
    device = device_of(sam)
    works = {
        "segment-anything": partial(meta_generate(sam, settings, device), image),
        "sampress": partial(EverythingGenerator(sam, settings).generate, image),
    }
    theirs, ours = (work() for work in works.values())
    seconds = seconds_in_turns(works, device, rounds, warmup=0)
    ratio = seconds["segment-anything"] / seconds["sampress"]
    print(
        f"dense, {image.shape[1]}x{image.shape[0]} pixels: segment-anything {seconds['segment-anything']:.3f} s, "
        f"sampress {seconds['sampress']:.3f} s, {ratio:.2f}x; {alike(ours, theirs)}"
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.everything", description=__doc__)
    parser.add_argument("--model", default=TRAINED, choices=VITS)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--images", type=int, default=20, help="images on which the strategies are compared")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--coarse", type=int, nargs="+", default=[8], help="points a side of the coarse grid")
    parser.add_argument("--high-score", type=float, nargs="+", default=[8.5], help="logits above it cover their pixels")
    parser.add_argument("--pred-iou", type=float, default=0.7)
    parser.add_argument("--stability", type=float, default=0.8)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 640], help="images for segment-anything")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    device = torch.device(options.device)

    dense = EverythingSettings(
        points_per_side=options.points_per_side,
        pred_iou_thresh=options.pred_iou,
        stability_score_thresh=options.stability,
    )
    if options.model == TRAINED:
        sam = load_sam(TRAINED).to(device)
    else:
        sam, dense = random_model(options.model, dense, device)
    print(f"{options.model} at {sam.input_size}, {options.rounds} rounds; {machine(device)}")
    if options.model == TRAINED and options.images:
        data = Shapes("validation", options.images)
        each = {f"dense {dense.points_per_side}": dense}
        for coarse in options.coarse:
            for high in options.high_score:
                each[f"hierarchical {coarse}/{dense.points_per_side}, {high:g}"] = replace(
                    dense, strategy="hierarchical", coarse_points_per_side=coarse, high_score_thresh=high
                )
        strategies(sam, [data.sample(i) for i in range(options.images)], each, options.rounds)
    for size in options.sizes:
        against_meta(sam, Shapes("validation", 2, size=size).image(1), dense, options.rounds)


if __name__ == "__main__":
    main()
    print(busy())
