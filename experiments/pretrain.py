"""Train the embedded teacher from scratch: ``python -m experiments.pretrain``.

Segment Anything's recipe (appendix A, "Training algorithm" and "Losses") at a size for laptops: boxes with jitter and
one to three points as prompts, several masks an image, focal, dice and cross-entropy loss on the masks and a squared
error on the predicted IoUs. The command can be stopped and started again; it ends with the same weights.

With ``--data``, scenes are composed of annotated images (:mod:`data.scenes`) of any of these data sets, or of several.
No weights of such a training are part of the package yet.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressors.distill.engine import Engine, Stage
from compressors.distill.losses import binary_cross_entropy, dice_loss, focal_loss, mask_iou
from compressors.distill.schedule import Optimisation
from core.checkpoint import file_sha256, write_safetensors
from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.geometry import normalise
from core.protocols import Prompt
from core.seeding import seed_for
from core.threads import take_threads
from data.prompts import jitter_boxes, random_points
from data.shapes import DIFFICULTY, Shapes
from evaluation.latency import PRECISIONS
from evaluation.metrics import mean_iou
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from experiments.pretrain_data import Pool, make_pool
from experiments.pretrain_scenes import SceneBatches, SceneTraining, Source, scene_loss
from experiments.runs.kept_threads import NAME as THREADS
from experiments.runs.kept_threads import keep_threads
from teachers.catalog import IN_TRAINING, MODELS
from teachers.initial_weights import initialise_sam
from teachers.resample import start_from
from teachers.sam import Sam
from teachers.weights import load_sam, read_state, sam_from_state

POCKET_BLOCKS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 7: 5}
"""Which block of ``sam_pocket`` each of ``sam_photo``'s begins as; blocks 5 and 6 begin as the identity."""


@dataclass(frozen=True)
class Recipe:
    """What the teacher is trained on, and how.

    Attributes:
        images: distinct training pictures at full difficulty.
        easy_images: distinct clear pictures, used in the first ``easy_share`` of the steps.
        batch: pictures a step; each is flipped, turned and recoloured at random.
        masks: instances a picture.
        box_share: share of the steps with boxes; the others have one to three points.
    """

    steps: int = 5200
    images: int = 10000
    easy_images: int = 2000
    easy_share: float = 0.1
    easy_difficulty: float = 0.15
    batch: int = 12
    masks: int = 4
    box_share: float = 0.6
    box_jitter: float = 0.04
    rate: float = 1.2e-3
    warmup: int = 150
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class PromptedBatch:
    """Pictures with prompts and the masks they mean.

    Attributes:
        images: float ``[B, 3, S, S]``, normalised.
        prompt: ``B * K`` prompts in the model's frame, those of one picture together.
        targets: coverage ``[B * K, l, l]`` in [0, 1], at the resolution of the low-res logits.
    """

    names: tuple[str, ...]
    images: Tensor
    prompt: Prompt
    targets: Tensor

    def pin_memory(self) -> "PromptedBatch":
        """The same batch; it is small, and stays where it is."""
        return self

    def to(self, device: torch.device) -> "PromptedBatch":
        """The same batch on a device."""
        return PromptedBatch(self.names, self.images.to(device), self.prompt.to(device), self.targets.to(device))


def training_batch(step: int, recipe: Recipe, easy: Pool, hard: Pool, frame: int, low_res: int) -> PromptedBatch:
    """The batch of a step, a function of the recipe and the step alone; masks at ``low_res`` cells a side."""
    rng = np.random.Generator(np.random.PCG64(seed_for(recipe.seed, "pretrain", step)))
    pool = easy if step < recipe.easy_share * recipe.steps else hard
    boxes_step = rng.random() < recipe.box_share
    point_count = int(rng.integers(1, 4))
    images, prompts, targets, names = [], [], [], []
    for index in rng.integers(0, len(pool), recipe.batch):
        image, labels = pool.augmented(int(index), rng)
        names.append(pool.name(int(index)))
        images.append(normalise(torch.from_numpy(image).permute(2, 0, 1), frame))
        for instance in _choose(labels, recipe.masks, rng):
            mask = labels == instance
            prompts.append(_box(mask, recipe, rng) if boxes_step else random_points(mask, point_count, rng))
            targets.append(torch.from_numpy(np.pad(mask, [(0, frame - s) for s in mask.shape])))
    coordinates = torch.from_numpy(np.stack(prompts)).float()
    prompt = Prompt(boxes_xyxy=coordinates) if boxes_step else Prompt.foreground(coordinates)
    coverage = torch.nn.functional.avg_pool2d(torch.stack(targets).float()[:, None], frame // low_res)[:, 0]
    return PromptedBatch(tuple(names), torch.stack(images), prompt, coverage)


def _choose(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` instances of a label map, without repetition where there are enough."""
    present = 1 + np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:])
    order = rng.permutation(present)
    return np.resize(order, count)


def _box(mask: NDArray[np.bool_], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    tight = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)
    return jitter_boxes(tight, (mask.shape[0], mask.shape[1]), recipe.box_jitter, rng)[0]


def prompted_loss(model: Sam, batch: PromptedBatch) -> dict[str, Tensor]:
    """Segment Anything's loss: the single mask, the best of the three others, and the predicted IoUs."""
    embeddings = model.encode(batch.images)
    decoded = model.decode_frame(embeddings, batch.prompt)
    # [N, 4, l, l]
    logits = decoded.logits.float()
    targets = batch.targets[:, None].expand_as(logits)
    parts = {
        "focal": 5 * focal_loss(logits, targets),
        "dice": dice_loss(logits, targets),
        "bce": 2 * binary_cross_entropy(logits, targets),
    }
    best = sum(parts.values()).detach()[:, 1:].argmin(1, keepdim=True) + 1  # type: ignore[union-attr]
    terms = {name: part[:, 0].mean() + part.gather(1, best).mean() for name, part in parts.items()}
    terms["iou"] = (decoded.iou_pred.float() - mask_iou(logits, targets)).square().mean()
    return terms


def pretrain(recipe: Recipe, model_name: str, folder: Path, precision: str, device: torch.device) -> Sam:
    """Train to the end of the recipe, continuing what ``folder`` holds, and save ``<model_name>.safetensors`` there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pretrain.state").exists():
        (folder / THREADS).unlink(missing_ok=True)
    keep_threads(folder, chosen=False)
    torch.manual_seed(seed_for(recipe.seed, "weights"))
    model = Sam(MODELS[model_name].config, model_name)
    initialise_sam(model)
    model.to(device)
    easy = make_pool("train", recipe.easy_images, recipe.seed + 1, recipe.easy_difficulty, model.input_size)
    hard = make_pool("train", recipe.images, recipe.seed, DIFFICULTY, model.input_size)
    validation = Shapes("validation", 100, seed=recipe.seed)

    def validate() -> float:
        scored = Scorer(model, [PROTOCOLS["box_single@1"]]).score(validation, alone=True)
        return mean_iou(scored.instances("box_single@1"))["miou"].value

    low_res = 4 * model.config.encoder.grid
    engine = Engine(folder, device=device, precision=precision)
    stage = Stage(
        name="pretrain",
        key=json.dumps([asdict(recipe), model_name, precision]),
        model=model,
        # A batch of the recipe is drawn as a whole: its number is that of the step.
        batch=lambda places: training_batch(
            places.start // recipe.batch, recipe, easy, hard, model.input_size, low_res
        ),
        batch_size=recipe.batch,
        loss=lambda batch, _: prompted_loss(model, batch),
        steps=recipe.steps,
        optimisation=Optimisation(
            rate=recipe.rate,
            optimizer="muon",
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            schedule="cosine",
            warmup=recipe.warmup,
            clip=1.0,
        ),
        validate=validate,
        validate_every=400,
    )
    progress = engine.fit(stage)
    metadata = {
        "name": model_name,
        "recipe": asdict(recipe),
        "seconds": progress.seconds,
        "images_seen": progress.images,
    }
    write_safetensors(folder / f"{model_name}.safetensors", model.state_dict(), metadata)
    return model


def pretrain_on_scenes(
    recipe: SceneTraining,
    sources: Sequence[Source],
    model_name: str,
    start: Path | None,
    folder: Path,
    precision: str,
    device: torch.device,
    validation: Source | None = None,
) -> Sam:
    """Train on scenes of data sets to the end of the recipe, continuing what ``folder`` holds; saves as above.

    Args:
        start: weights to begin with; None begins as ``sam_pocket`` does, resized (:mod:`teachers.resample`).
        validation: a data set whose validation part is scored now and then; it chooses nothing.
    """
    torch.manual_seed(seed_for(recipe.seed, "weights"))
    config = (MODELS | IN_TRAINING)[model_name].config
    model = Sam(config, model_name)
    initialise_sam(model)
    if start is not None:
        model.load_state_dict(sam_from_state(config, read_state(start), str(start)).state_dict())
    elif model_name == "sam_photo":
        start_from(model, load_sam("sam_pocket"), POCKET_BLOCKS)
    model.to(device)
    batches = SceneBatches.load(sources, recipe, model.input_size, 4 * model.config.encoder.grid, device)
    engine = Engine(folder, device=device, precision=precision, workers=1, save_every_s=120)
    held = None if validation is None else validation.open_validation()

    def validate() -> float:
        assert held is not None
        scored = Scorer(model, [PROTOCOLS["box_single@1"]]).score(held, range(min(40, len(held))), alone=True)
        return mean_iou(scored.instances("box_single@1"))["miou"].value

    described = [asdict(recipe), [asdict(source) for source in sources], model_name, precision]
    begun = None if start is None else file_sha256(start)
    stage = Stage(
        name="pretrain",
        key=json.dumps([*described, begun]),
        model=model,
        batch=batches,
        batch_size=recipe.batch,
        loss=lambda batch, _: scene_loss(model, batch),
        steps=recipe.steps,
        optimisation=Optimisation(
            rate=recipe.rate,
            optimizer="muon",
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            schedule="cosine",
            warmup=recipe.warmup,
            clip=1.0,
            ema=recipe.ema,
        ),
        validate=None if held is None else validate,
        validate_every=250,
    )
    progress = engine.fit(stage)
    metadata = {
        "name": model_name,
        "recipe": asdict(recipe),
        "seconds": progress.seconds,
        "images_seen": progress.images,
    }
    write_safetensors(folder / f"{model_name}.safetensors", model.state_dict(), metadata)
    return model


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pretrain",
        description="Train an embedded teacher from scratch: sam_pocket on procedural shapes, sam_photo on scenes of "
        "photographs. Stop it at any time; the same command goes on.",
    )
    add = parser.add_argument
    choices = sorted(MODELS | IN_TRAINING)
    add("--model", choices=choices, default="sam_pocket", help="which shape to train (default sam_pocket)")
    add("--out", type=Path, default=Path("runs/pretrain"), help="folder for state, log and weights")
    add(
        "--data",
        action="append",
        metavar="NAME[=DIR][:SHARE]",
        help="shapes, coco=DIR or sa1b=DIR, several times for a mixture; scenes are composed of its annotated images "
        "(without it: single images of shapes, as sam_pocket was trained)",
    )
    add("--validation", metavar="NAME=DIR", help="a data set whose validation part is scored now and then")
    add("--start", type=Path, help="weights to begin with (scenes only)")
    add("--steps", type=int, help="optimizer steps")
    add("--images", type=int, help="most distinct training images")
    add("--batch", type=int, help="images a step")
    add("--rate", type=float, help="highest learning rate")
    add("--seed", type=int, help="of weights, images and prompts")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="threads of the CPU")
    add("--precision", choices=tuple(PRECISIONS), help="default: bfloat16 for shapes, float32 for scenes on a CPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    take_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    names = ("steps", "images", "batch", "rate", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    try:
        if options.data is None:
            if options.start or options.validation:
                raise InputError("--start and --validation go with --data")
            pretrain(Recipe(**given), options.model, options.out, options.precision or "bfloat16", device)
            return
        sources = [Source.parse(text) for text in options.data]
        validation = Source.parse(options.validation) if options.validation else None
        precision = options.precision or ("float32" if device.type == "cpu" else "bfloat16")
        recipe = SceneTraining(**given)
        pretrain_on_scenes(recipe, sources, options.model, options.start, options.out, precision, device, validation)
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    outlive_closed_pipes()
    main()
