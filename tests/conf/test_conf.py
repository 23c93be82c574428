"""Every file of conf/ composes, names a class that exists, and has that class's own fields, types and defaults."""

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hydra as hydra_package
import pytest
import yaml
from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf

from core.errors import InputError
from data.shapes import Shapes
from experiments.config.compose import settings_of
from experiments.config.files import CONF, choices
from experiments.config.groups import DATA
from experiments.config.schema import COMMANDS, RunConfig
from experiments.config.targets import build_method, register, target_class
from experiments.evaluate import chosen_protocols
from experiments.everything.command import generator_settings
from experiments.paper_table import presets
from experiments.runs.build import build_data, data_name
from experiments.runs.identity import method_name
from students.quantized.plan import make_plan
from students.quantized.scheme import Scheme
from teachers.catalog import MODELS
from teachers.weights import load_sam

FILES = sorted(path for path in CONF.rglob("*.yaml") if "local" not in path.parts)
METHODS = sorted(choices("method"))
VARIANTS = [path for path in FILES if path.parent.name == "variant"]
lines = cache(choices)


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_module("conf", version_base="1.3"):
        yield


@cache
def compose(name: str, *overrides: str, whole: bool = False) -> DictConfig:
    """Composed settings, which nobody changes."""
    return hydra_package.compose(name, list(overrides), return_hydra_config=whole)


WITHOUT_RATIO = (
    *(f"method={name}" for name in ("mobilesam", "tinysam", "ptq")),
    *(
        f"experiment={name}"
        for name in (
            "mobilesam_reference",
            "tinysam_reference",
            "ptq_ablations",
            "ptq_budget",
            "ptq_mechanisms",
            "ptq_photo",
            "ptq_reference",
            "ptq_schemes",
            *("ptq_state_of_the_art", "ptq_state_of_the_art_w4", "ptq_state_of_the_art_w4a16"),
        )
    ),
)


def composed(command: str, *overrides: str) -> DictConfig:
    """A command's settings, with what it requires."""
    given = ["ratio=0.5"] if command in ("run", "cost") and not set(WITHOUT_RATIO) & set(overrides) else []
    given += (
        ["checkpoint=sam_pocket"]
        if command in ("evaluate", "latency", "convert", "export", "predict", "everything")
        else []
    )
    given += ["image=somewhere"] if command in ("predict", "everything") else []
    given += ["to=hf"] if command == "convert" else []
    given += ["first=one", "second=other"] if command == "compare" else []
    given += ["shell=bash"] if command == "completion" else []
    given += ["out=somewhere"] if command in ("convert", "export") else []
    chosen = [text for text in given if not any(o.startswith(text.partition("=")[0] + "=") for o in overrides)]
    return compose("config" if command == "run" else command, *chosen, *overrides)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    settings = settings_of(composed(command))
    assert isinstance(settings, COMMANDS[command])


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_changes_what_its_method_has(path: Path) -> None:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    defaults = raw.pop("defaults", [])
    # A variant of a variant has its method.
    for parent in [each for each in defaults if isinstance(each, str) and each != "_self_"]:
        defaults += yaml.safe_load((path.parent / f"{parent}.yaml").read_text(encoding="utf-8")).get("defaults", [])
    overrides = [each for each in defaults if isinstance(each, dict)]
    method = next((each["override /method"] for each in overrides if "override /method" in each), "slimsam")
    known = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    assert set(raw.get("method", {})) <= set(known)
    assert set(raw) <= {part.name for part in dataclasses.fields(RunConfig)}
    name = str(raw.get("name", path.stem))
    assert name.startswith(path.stem) or path.stem.startswith(name.partition("_${")[0]), "several may have one name"


@pytest.mark.parametrize(
    "path",
    # Those of variants are many, and each takes a composition.
    [pytest.param(path, marks=pytest.mark.slow if path in VARIANTS else ()) for path in FILES],
    ids=lambda path: path.relative_to(CONF).as_posix(),
)
def test_every_file_composes(path: Path) -> None:
    group = path.parent.relative_to(CONF).as_posix()
    if group == ".":
        assert path.stem in ("base", "config", *COMMANDS)
        return
    overrides = [f"{group}={path.stem}"]
    if group == "generator" or path.stem.startswith("everything_"):
        instead = ["image=null"] if path.stem == "everything_strategies" else []
        built = generator_settings(settings_of(composed("everything", *overrides, *instead)).generator)
        assert built.strategy == path.stem.partition("_")[0] or group == "experiment"
        return
    if group == "variant":
        compose("config", *overrides, "ratio=0.5")
        return
    if group == "experiment" and "ratio" not in compose("config", f"{group}={path.stem}").method:
        overrides.append("ratio=null")
    if group == "student":
        overrides += ["method=mobilesam", *(["student.name=resnet18"] if path.stem == "timm" else [])]
    photo = group == "experiment" and path.stem.endswith("_photo")
    if photo or (group in ("data", "evaluation") and not path.stem.startswith("shapes")):
        overrides.append("data.root=somewhere")
    if group == "evaluation":
        scored = settings_of(composed("evaluate", *overrides))
        assert chosen_protocols(scored.evaluation)
        overrides.insert(0, f"data={data_name(scored.evaluation.data)}")
        if path.stem not in DATA:
            # One shows it for all.
            if path.stem != "coco_box":
                return
            with pytest.raises(InputError, match=r"evaluation\.protocols=\["):
                settings_of(composed("run", *overrides))
            return
    settings = settings_of(composed("run", *overrides))
    if group in ("data", "evaluation"):
        chosen = settings.data if group == "data" else settings.evaluation.data
        assert chosen._target_ == DATA[path.stem]()._target_


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_says_what_it_is(path: Path) -> None:
    assert lines(path.parent.relative_to(CONF).as_posix())[path.stem]
    if path.stem == "config":
        assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_fields_of_its_class(name: str) -> None:
    raw = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    cfg = composed("run", f"method={name}")
    target = target_class(raw["_target_"])
    assert [str(key) for key in cfg.method if key != "_target_"] == [part.name for part in dataclasses.fields(target)]
    built: Any = build_method(settings_of(cfg).method)
    assert isinstance(built, target) and getattr(built, "ratio", 0.5) == 0.5
    assert hash(built) == hash(dataclasses.replace(built)), "settings are plain values, nested ones rebuilt"
    assert method_name(settings_of(cfg)) == name


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_file_shows_every_setting(name: str) -> None:
    """Whoever opens the file sees all that can be changed."""
    shown = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    target = target_class(shown["_target_"])
    names = {part.name for part in dataclasses.fields(target)}
    assert set(shown) - {"defaults", "_target_"} == names


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_has_the_arguments_of_its_class(name: str) -> None:
    schema = DATA[name]()
    arguments = inspect.signature(target_class(schema._target_)).parameters
    fields = {part.name: part.default for part in dataclasses.fields(schema) if part.name != "_target_"}
    assert set(fields) == set(arguments)
    for key, default in fields.items():
        if default != "???" and arguments[key].default is not inspect.Parameter.empty:
            assert default == arguments[key].default, key
    assert target_class(schema._target_).name == name


@pytest.mark.parametrize("name", choices("teacher"))
def test_a_teacher_is_in_the_catalogue(name: str) -> None:
    assert composed("run", f"teacher={name}").teacher.name == name
    assert set(choices("teacher")) == set(MODELS)


def test_evaluation_follows_the_data() -> None:
    cfg = composed("run", "data=coco", "data.root=here")
    assert cfg.evaluation.data._target_ == "data.coco.Coco"
    assert (cfg.evaluation.data.root, cfg.evaluation.data.split, cfg.evaluation.data.labels) == (
        "here",
        "validation",
        True,
    )
    assert (cfg.data.split, cfg.data.labels) == ("train", False)
    cfg = composed("evaluate", "evaluation=sa1b", "data.root=here")
    assert (cfg.evaluation.data._target_, cfg.evaluation.data.root) == ("data.sa1b.Sa1b", "here")
    assert cfg.data.root == "here"


def test_a_run_never_trains_on_what_it_is_scored_on() -> None:
    for name in DATA:
        cfg = composed("run", f"data={name}", *([] if name == "shapes" else ["data.root=here"]))
        assert (cfg.data.split, cfg.evaluation.data.split) == ("train", "validation")


def test_presets_beat_the_defaults_and_the_command_line_beats_presets() -> None:
    assert composed("run", "experiment=smoke").method.steps == 4
    assert composed("run", "experiment=smoke", "method.steps=7").method.steps == 7
    assert compose("config", "experiment=smoke").ratio == 0.5


@pytest.mark.parametrize(
    "preset",
    [
        # Those of many variants take long.
        pytest.param(name, marks=pytest.mark.slow if len(entries) > 6 else ())
        for name, entries in presets().items()
    ],
)
def test_a_preset_sweeps_over_the_lines_of_its_table(preset: str) -> None:
    raw = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text())
    params = raw["hydra"]["sweeper"]["params"]
    entries = presets()[preset]
    # The teacher is scored beside every run.
    variants = str(params.get("variant", raw.get("name"))).split(",")
    assert set(variants) == {entry.variant for entry in entries} - {"teacher"}
    ratios = {float(ratio) for ratio in str(params["ratio"]).split(",")} if "ratio" in params else {None}
    assert ratios == {entry.ratio for entry in entries}
    assert params["seed"] == "0,1,2"
    seen, of_calibration = set(), set[int]()
    for variant in variants:
        given = [f"experiment={preset}", "ratio=0.5" if "ratio" in params else "ratio=null"]
        given += [f"variant={variant}"] * ("variant" in params) + ["data.root=somewhere"] * preset.endswith("_photo")
        settings = settings_of(compose("config", *given))
        assert settings.name == variant
        # What is quantised sees no training images; how many it is calibrated on is what some lines ask.
        images = None if variant.startswith("ptq_images_") else getattr(settings.method, "images", None)
        seen.add((getattr(settings.method, "steps", None), getattr(settings.method, "batch", None)))
        of_calibration |= {images} - {None}
    assert len(of_calibration) <= 1
    if not preset.endswith("_training"):  # which ask what more images and steps are worth
        assert len(seen) == 1, "equal images for all"


def test_students_across_generations_have_the_other_decoder() -> None:
    preset = yaml.safe_load((CONF / "experiment" / "across_generations.yaml").read_text())
    found = []
    for variant in preset["hydra"]["sweeper"]["params"]["variant"].split(","):
        settings = settings_of(compose("config", "experiment=across_generations", f"variant={variant}", "ratio=null"))
        found.append((settings.teacher.name, settings.method.decoder_of, settings.name))
    assert found == [("sam2_pocket", "sam_pocket", None), ("sam_pocket", "sam2_pocket", None)]


@pytest.mark.slow
def test_each_variant_changes_a_setting() -> None:
    seen = set()
    for variant in choices("variant"):
        settings = compose("config", f"variant={variant}", "ratio=0.5")
        seen.add((repr(OmegaConf.to_container(settings.method, resolve=True)), settings.data.count))
    # Two tables have names of their own for the defaults of quantisation: ptq_hessian and ptq_plain.
    assert len(seen) == len(choices("variant")) - 1


def test_the_reference_is_what_the_released_code_does() -> None:
    method = settings_of(composed("run", "experiment=slimsam_reference", "teacher=sam_vit_b")).method
    assert (method.scope, method.normalisation, method.embedding, method.rel_pos) == (
        "global",
        "gaussian",
        "tied",
        "reset",
    )
    assert (method.softmax, method.align_global_qkv, method.embedding_weights) == ("rescale", False, "released")
    assert (method.steps, method.batch, method.validations, method.importance_images) == (50_000, 1, 20, 1000)
    optimisation = method.optimisation
    assert (optimisation.optimizer, optimisation.lr, optimisation.accumulate) == ("adam", 1e-4, 4)
    assert (optimisation.schedule, optimisation.patience, optimisation.factor) == ("plateau", 4, 0.5)
    assert (optimisation.warmup, optimisation.clip, optimisation.weight_decay) == (0, 0, 0)
    assert (method.patience_step_1, method.aligned_epochs, method.padding) == (3, 10, "count")


@pytest.mark.slow
def test_each_option_of_the_released_recipe_is_changed_by_itself_to_what_it_is_here() -> None:
    def method(variant: str) -> dict[str, Any]:
        return dataclasses.asdict(settings_of(composed("run", f"variant={variant}", "ratio=0.77")).method)

    released, here = method("released"), method("slimsam")
    changed = {
        "schedule": {"optimisation"},
        "free_embedding": {"embedding"},
        "keep_rel_pos": {"rel_pos"},
        "fold_softmax": {"softmax"},
        "global_qkv": {"align_global_qkv"},
        "last_weights": {"keep_best"},
        "padding": {"padding"},
        "weights": {"embedding_weights"},
        "local": {"scope"},
    }
    preset = (CONF / "experiment" / "slimsam_released_options.yaml").read_text().rpartition("variant: ")[2]
    assert set(preset.strip().split(",")) == {"slimsam", "released", *(f"released_{name}" for name in changed)}
    for name, keys in changed.items():
        one = method(f"released_{name}")
        assert {key for key in one if one[key] != released[key]} == keys
        for key in keys - {"optimisation", "keep_best", "padding"}:
            assert one[key] == here[key]
    schedule = method("released_schedule")["optimisation"]
    assert {key: schedule[key] for key in ("schedule", "warmup", "clip")} == {
        "schedule": "cosine",
        "warmup": 10,
        "clip": 1.0,
    }


def test_the_reference_of_quantisation_has_a_scheme_for_each_kind_of_operator() -> None:
    method = settings_of(composed("run", "experiment=ptq_reference")).method
    assert (method.weights, method.activations, method.linear_weights) == ("channel", "asymmetric", "qkv")
    assert (method.linear_activations, method.products, method.product_activations) == (
        "symmetric",
        "head",
        "symmetric",
    )
    assert method.twin and method.bias_correction and method.convolution_outputs == "float"
    assert (method.gradient, method.order, method.images) == ("fisher", "parallel", 8)
    assert (method.candidates, method.rounds, method.weights_in_search) == (100, 3, "quantized")
    plan = make_plan(
        load_sam("sam_pocket"), Scheme(**{k.name: getattr(method, k.name) for k in dataclasses.fields(Scheme)})
    )
    patch, qkv = (plan.layers[f"image_encoder.{name}"] for name in ("patch_embed.proj", "blocks.0.attn.qkv"))
    assert (patch["weight"]["shape"], patch["input"]["symmetric"], patch["output"]) == ([160, 1, 1, 1], False, None)
    assert (qkv["weight"]["parts"], qkv["weight"]["shape"], qkv["input"]["symmetric"]) == (3, [480, 1], True)
    lin1, lin2 = (plan.layers[f"image_encoder.blocks.0.mlp.{name}"] for name in ("lin1", "lin2"))
    assert (lin1["weight"]["shape"], lin2["input"]["kind"]) == ([], "twin")
    deconvolution = plan.layers["mask_decoder.output_upscaling.3"]
    assert deconvolution["transposed"] and (deconvolution["input"]["kind"], deconvolution["input"]["symmetric"]) == (
        "uniform",
        False,
    )
    products = plan.products["image_encoder.blocks.0.attn"]
    assert products["scores"]["left"]["symmetric"] and len(products["scores"]["left"]["shape"]) == 3
    assert products["mixing"]["left"] == {"kind": "twin", "bits": 8, "values": "softmax"}


@pytest.mark.parametrize("method, precision", [("slimsam", "float32"), ("mobilesam", "float32"), ("tinysam", "auto")])
def test_the_recipes_at_full_size_train_in_the_published_precision(method: str, precision: str) -> None:
    # TinySAM's is not published.
    assert settings_of(composed("run", f"experiment={method}_reference")).engine.precision == precision


def test_hydra_leaves_no_folders() -> None:
    cfg = compose("config", "ratio=0.5", whole=True)
    assert cfg.hydra.output_subdir is None and cfg.hydra.run.dir == "." and cfg.hydra.job.chdir is False
    assert cfg.hydra.job.name == "experiments"
    assert cfg.hydra.job_logging.root is None


def test_students_of_another_architecture_have_a_recipe_of_their_own() -> None:
    words = ("teacher.recipe.scratch_optimizer=adamw", "teacher.recipe.scratch_lr=0.5", "teacher.recipe.lr=0.25")
    for name in ("mobilesam", "tinysam", "scratch", "slimsam"):
        ratio = ["ratio=0.5"] if name in ("slimsam", "scratch") else []
        optimisation = settings_of(composed("run", f"method={name}", *ratio, *words)).method.optimisation
        # The control is trained as the method that it is the control of.
        expected = ("adamw", 0.5) if name in ("mobilesam", "tinysam") else ("adam", 0.25)
        assert (optimisation.optimizer, optimisation.lr) == expected


def test_data_sets_are_built_with_their_arguments() -> None:
    settings = settings_of(composed("run", "data.count=3", "data.size=64", "data.seed=5"))
    data = build_data(settings.data)
    assert isinstance(data, Shapes) and (len(data), data.size, data.seed, data.split) == (3, 64, 5, "train")
    assert OmegaConf.is_config(composed("run"))
