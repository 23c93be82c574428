"""Train an embedded teacher from scratch: ``python -m experiments.pretrain``.

Segment Anything's recipe (appendix A, "Training algorithm" and "Losses") at a size for laptops: boxes with jitter and
one to three points as prompts, several masks an image, focal, dice and cross-entropy loss on the masks and a squared
error on the predicted IoUs. The command can be stopped and started again; it ends with the same weights. Under
``torchrun`` the processes share each step's images.

With ``--data``, scenes are composed of annotated images (:mod:`data.scenes`) of any of these data sets, or of several.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressors.distill.engine import Engine, Stage
from compressors.distill.optimizer import OptimizerConfig
from compressors.distill.state import key_of_state
from core import distributed
from core.checkpoint import file_sha256, write_safetensors
from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.geometry import Stretched
from core.plain_file import home_path, reraise_access
from core.seeding import seed_for
from core.storage import NotWritten, check_place
from core.threads import take_threads
from data.exclusions import ON_MISSING
from data.sample import ImageData
from data.shapes import Shapes
from evaluation.latency import PRECISIONS
from evaluation.metrics import mean_iou
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from experiments.pretrain_options import above_zero, at_least_one, below_one, normalised_shares, usable_device
from experiments.pretrain_scenes import SHAPES_COUNT, SceneBatches, SceneTraining, Source, scene_loss
from experiments.pretrain_shapes import ShapesBatches, ShapesTraining, prompted_loss
from experiments.runs.data_content import data_content
from experiments.runs.kept_threads import NAME as THREADS
from experiments.runs.kept_threads import keep_threads
from teachers.catalog import MODELS
from teachers.initial_weights import initialise_sam
from teachers.resample import share_decoder, start_from
from teachers.sam import Sam
from teachers.weights import holds_weights, load_sam, read_state, sam_from_state, weight_files

STAGE = "pretrain"
GIVEN = ("steps", "images", "batch", "rate", "seed")
"""Fields of a recipe that the command line gives, and those of scenes only."""
GIVEN_SCENES = ("ellipses", "boxes", "ema")
SKIPPING = {"data.missing=skip": "--missing skip", "data.unusable=skip": "--unusable skip"}
"""Settings that data sets name in their messages, and what they are on this command line."""
_STARTS = "give a weights file or a folder of SamModel"

POCKET_BLOCKS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 7: 5}
"""Which block of ``sam_pocket`` each of ``sam_photo``'s begins as; blocks 5 and 6 begin as the identity."""


def pretrain(recipe: ShapesTraining, model_name: str, folder: Path, precision: str, device: torch.device) -> Sam:
    """Train on ``shapes`` to the end of the recipe, continuing what ``folder`` holds.

    Returns:
        The model, whose weights are ``<model_name>.safetensors`` in the folder.
    """
    key = [asdict(recipe), model_name, precision]
    _begin(folder, key)
    model = _initial(model_name, recipe.seed).to(device)
    batches = ShapesBatches.load(recipe, model.input_size, 4 * model.config.encoder.grid)
    validation = (Shapes("validation", 100, seed=recipe.seed), 100)
    engine = Engine(folder, device=device, precision=precision)
    return _train(engine, recipe, model, key, batches, lambda batch: prompted_loss(model, batch), validation, 400)


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
    """Train on scenes of data sets to the end of the recipe, continuing what ``folder`` holds.

    Args:
        start: weights to begin with; None begins as ``sam_pocket`` does, resized (:mod:`teachers.resample`), or with
            its decoder.
        validation: a data set; of the images that it holds out (of SA-1B's layout: its last 50) the first 40 are scored
            as :func:`scored_every` says. They choose nothing.

    Raises:
        InputError: a source or a start that cannot be read; the folder holds another training; an image that is scored
            is trained on.
    """
    begun = None if start is None else _begun(start)
    data = [source.open("train", recipe.seed) for source in sources]
    scored = None if validation is None else (validation.open("validation"), 40)
    if scored is not None:
        _require_held_out(data, *scored)
    contents = [data_content(images, range(len(images)), True, folder).identity() for images in data]
    described = [asdict(recipe), [[*pair] for pair in zip([s.share for s in sources], contents, strict=True)]]
    key = [*described, model_name, precision, None if begun is None else begun[1]]
    _begin(folder, key)
    model = _initial(model_name, recipe.seed)
    if isinstance(model.input_size, Stretched):
        # Nothing of a frame that images fill is padding.
        recipe = replace(recipe, scenes=replace(recipe.scenes, narrowest=1.0))
    if begun is not None:
        model.load_state_dict(sam_from_state(model.config, begun[0], f"--start {start}").state_dict())
    elif model_name == "sam_photo":
        start_from(model, load_sam("sam_pocket"), POCKET_BLOCKS)
    # Ellipses are drawn on images, not seen in them.
    model.image_encoder.requires_grad_(not recipe.ellipses)
    model.to(device)
    batches = SceneBatches.load(sources, data, recipe, model.input_size, 4 * model.config.encoder.grid, device)
    engine = Engine(folder, device=device, precision=precision, workers=1, save_every_s=120)
    every = scored_every(recipe.steps)
    return _train(engine, recipe, model, key, batches, lambda batch: scene_loss(model, batch), scored, every)


def scored_every(steps: int) -> int:
    """After how many steps a training on scenes scores: 250 or more, and at most fourteen times with its end."""
    return max(250, -(-steps // 14))


def _begin(folder: Path, key: list[Any]) -> None:
    """Take the threads that a training began with; several processes do so together.

    Raises:
        InputError: the folder holds a training with other settings or images, which would be lost.
    """

    def check() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / f"{STAGE}.state"
        if not state.exists():
            (folder / THREADS).unlink(missing_ok=True)
        elif key_of_state(state) not in (None, json.dumps(key)):
            raise InputError(
                f"{state}: is of a training with other settings or images; give the command that began it to go on, "
                "or another --out to begin anew"
            )

    distributed.from_main(check)
    keep_threads(folder, chosen=False)


def _begun(start: Path) -> tuple[dict[str, Tensor], str | list[str]]:
    """Weights to begin with, and the SHA-256 of their file; of a folder's shards each.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    try:
        with reraise_access(start):
            if not start.exists():
                raise InputError(f"{start}: no such file; {_STARTS}")
            if start.is_dir() and not holds_weights(start):
                raise InputError(f"{start}: is a folder without weights; {_STARTS}")
        state = read_state(start)
        hashes = [file_sha256(file) for file in weight_files(start)]
    except InputError as error:
        raise InputError(f"--start {error}") from None
    return state, hashes[0] if len(hashes) == 1 else hashes


def _check_out(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before anything is read.

    Raises:
        InputError: the system refuses, or a file stands in its place.
    """
    try:
        check_place(folder / f"{STAGE}.state")
    except NotWritten as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror}); give another folder") from None


def _require_held_out(data: Sequence[ImageData], scored: ImageData, count: int) -> None:
    trained = {file for images in data for file in _files(images, len(images))}
    if shared := sorted(map(str, trained & _files(scored, count))):
        raise InputError(
            f"--validation: {len(shared)} of the images that are scored are trained on, such as {shared[0]}; give "
            "another folder"
        )


def _files(images: ImageData, count: int) -> set[object]:
    files = [images.image_file(index) for index in range(min(count, len(images)))]
    return {file.resolve() if isinstance(file, Path) else file for file in files if file is not None}


def _initial(model_name: str, seed: int) -> Sam:
    torch.manual_seed(seed_for(seed, "weights"))
    model = MODELS[model_name].config.make(model_name)
    initialise_sam(model)
    if model_name == "sam2_pocket":
        share_decoder(model, load_sam("sam_pocket"))
    return model


def _train(
    engine: Engine,
    recipe: ShapesTraining | SceneTraining,
    model: Sam,
    key: list[Any],
    batches: Callable[[range], Any],
    loss: Callable[[Any], Any],
    validation: tuple[ImageData, int] | None,
    validate_every: int,
) -> Sam:
    """The training itself, by the one engine; ``validation`` is a data set and how many of its images are scored.

    What is scored, the average so far, is written each time: a training that is stopped leaves a model behind.
    """

    def validate() -> float:
        assert validation is not None
        data, count = validation
        scored = Scorer(model, [PROTOCOLS["box_single@1"]]).score(data, range(min(count, len(data))), alone=True)
        figure = mean_iou(scored.instances("box_single@1"))["miou"].value
        write({"validation": figure})
        return figure

    def write(about: dict[str, Any]) -> None:
        if distributed.is_main():
            metadata = {"name": model.name, "recipe": asdict(recipe), **about}
            write_safetensors(engine.folder / f"{model.name}.safetensors", model.state_dict(), metadata)

    optimisation = OptimizerConfig(
        lr=recipe.rate,
        optimizer="muon",
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        schedule="cosine",
        warmup=recipe.warmup,
        clip=1.0,
        ema=recipe.ema if isinstance(recipe, SceneTraining) else 0.0,
    )
    stage = Stage(
        name=STAGE,
        key=json.dumps(key),
        model=model,
        batch=batches,
        batch_size=recipe.batch,
        loss=lambda batch, _: loss(batch),
        steps=recipe.steps,
        optimisation=optimisation,
        validate=None if validation is None else validate,
        validate_every=validate_every,
    )
    progress = engine.fit(stage)
    write({"seconds": progress.seconds, "images_seen": progress.images})
    return model


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pretrain",
        description="Train an embedded teacher from scratch: sam_pocket and sam2_pocket on procedural shapes, "
        "sam_photo on scenes of photographs. Stop it at any time; the same command goes on. With several processes, "
        "torchrun --nproc-per-node N -m -- experiments.pretrain ..., each takes a share of a step's images.",
    )
    add = parser.add_argument
    choices = sorted(MODELS)
    add("--model", choices=choices, default="sam_pocket", help="which shape to train (default sam_pocket)")
    add("--out", type=home_path, default=Path("runs/pretrain"), help="folder for state, log and weights")
    add(
        "--data",
        action="append",
        metavar="NAME[=DIR][:SHARE]",
        help="shapes, coco=DIR or sa1b=DIR, several times for a mixture; scenes are composed of its annotated images "
        "(without it: single images of shapes, as sam_pocket was trained); of sa1b all images but the last",
    )
    add(
        "--validation",
        metavar="NAME=DIR",
        help="a data set; of its held-out images (in SA-1B's layout: the folder's last 50) 40 are scored every 250 "
        "steps or more, at most fourteen times; what is scored is written",
    )
    images, annotations = "images that are missing or damaged", "annotations that cannot be used"
    for name, what in (("--missing", images), ("--unusable", annotations)):
        add(name, choices=ON_MISSING, help=f"{what}: refuse (default), or skip, which counts them (scenes only)")
    add("--start", type=home_path, help="weights to begin with, a file or a folder of SamModel (scenes only)")
    add("--steps", type=at_least_one, help="optimizer steps")
    add(
        "--images",
        type=at_least_one,
        help="most distinct training images (without --data: of full difficulty, and of clear ones again); "
        f"of shapes in a mixture at most {SHAPES_COUNT}",
    )
    add("--batch", type=at_least_one, help="images a step")
    add(
        "--mosaics",
        type=normalised_shares,
        metavar="SHARE,...",
        help="how often a scene is one image, 2 images across, 3, ... (default 0.5,0.3,0.2)",
    )
    add(
        "--ellipses",
        action="store_true",
        default=None,
        help="the decoder alone learns where a box is: random boxes, and as their masks the ellipses in them",
    )
    add("--boxes", type=at_least_one, help="box prompts of a scene (default 10)")
    add("--ema", type=below_one, help="decay of the kept moving average of the weights (scenes only; default 0.995)")
    add("--rate", type=above_zero, help="highest learning rate")
    add("--seed", type=int, help="of weights, images and prompts")
    add("--device", type=usable_device, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=at_least_one, help="threads of the CPU")
    add("--precision", choices=tuple(PRECISIONS), help="default: bfloat16 for shapes, float32 for scenes on a CPU")
    options = parser.parse_args()
    device: torch.device = options.device
    if device.type == "cuda" and device.index is None and distributed.announced() > 1:
        device = torch.device("cuda", distributed.local_rank())
    take_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    given = {name: value for name in GIVEN if (value := getattr(options, name)) is not None}
    of_scenes = {name: value for name in GIVEN_SCENES if (value := getattr(options, name)) is not None}
    distributed.init(device)
    try:
        distributed.from_main(lambda: _check_out(options.out))
        if options.data is None:
            of_data = ("start", "validation", "missing", "unusable", *GIVEN_SCENES, "mosaics")
            if alone := [f"--{name}" for name in of_data if getattr(options, name) is not None]:
                raise InputError(f"{' and '.join(alone)}: only with --data")
            pretrain(ShapesTraining(**given), options.model, options.out, options.precision or "bfloat16", device)
            return
        rules = {name: rule for name in ("missing", "unusable") if (rule := getattr(options, name)) is not None}
        sources = [replace(Source.parse(text), **rules) for text in options.data]
        validation = None
        if options.validation is not None:
            validation = replace(Source.parse_validation(options.validation), **rules)
        precision = options.precision or ("float32" if device.type == "cpu" else "bfloat16")
        recipe = SceneTraining(**given, **of_scenes)
        if options.mosaics:
            cells = tuple(range(1, len(options.mosaics) + 1))
            scenes = replace(recipe.scenes, cells=cells, cell_shares=options.mosaics)
            recipe = replace(recipe, scenes=scenes)
        pretrain_on_scenes(recipe, sources, options.model, options.start, options.out, precision, device, validation)
    except InputError as error:
        message = str(error)
        for setting, option in SKIPPING.items():
            message = message.replace(setting, option)
        parser.exit(2, f"{message}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on\n")
    finally:
        distributed.shut_down()


if __name__ == "__main__":
    outlive_closed_pipes()
    main()
