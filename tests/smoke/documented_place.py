"""A folder in which documented commands run: what FILE, DIR, photo.jpg and other placeholders stand for."""

import json
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from core.errors import InputError
from core.provenance import ROOT
from data.shapes import Shapes
from data.shapes_export import write_data_set
from experiments.cli.command_line import main
from students.catalog import RELEASED
from teachers.catalog import MODELS
from tests.smoke.documented_runs import jobs
from tests.unit.tiny import pocket_file
from tests.unit.truthful import write_detections

PLACEHOLDER = re.compile(r"(?<![\w.$])[A-Z][A-Z_]{2,}(?![\w=])")
"""What a reader puts a word of his own for."""
QUICK_RUN = [
    *("experiment=smoke", "method=slimsam", "method.importance_images=1", "method.steps=1", "logger.scores=0"),
    "evaluation.images=1",
]
EXAMPLE = {"--config-dir": "conf", "packages": "[halving]", "method": "drop_blocks"}
"""What settings of one's own are in the worked example."""


class Place:
    """The folder, its files being made when a command first asks for them.

    Attributes:
        folder: where commands run.
        done: what has run already, by its words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[tuple[str, ...]] = set()
        self._folders = 0
        shutil.copytree(
            ROOT / "docs" / "examples" / "own_method",
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__*__"),
        )

    @cached_property
    def student(self) -> Path:
        """A small student of the pocket teacher."""
        return self._made(*QUICK_RUN, "ratio=0.5")

    @cached_property
    def quantised(self) -> Path:
        """The pocket teacher in 8 bits with symmetric grids."""
        few = ("method.candidates=1", "method.rounds=1", "method.images=1", "method.prompts=1")
        return self._made("method=ptq", *few, "method.activations=symmetric", "data.count=2", "evaluation.images=1")

    @cached_property
    def coco(self) -> Path:
        """Shapes in COCO's layout, both splits."""
        for split in ("train", "validation"):
            write_data_set(Shapes(split, 4), self.folder / "data", overwrite=True)
        return self.folder / "data" / "coco"

    @cached_property
    def sa1b(self) -> Path:
        """Shapes in SA-1B's layout."""
        assert self.coco.is_dir()
        return self.folder / "data" / "sa1b"

    @cached_property
    def lvis(self) -> Path:
        """The same in LVIS's layout."""
        lvis = shutil.copytree(self.coco, self.folder / "data" / "lvis")
        for split, name in (("train2017", "train"), ("val2017", "val")):
            content = json.loads((lvis / "annotations" / f"instances_{split}.json").read_text())
            for image in content["images"]:
                image |= {"coco_url": f"http://images.cocodataset.org/{split}/{image.pop('file_name')}"}
                image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
            for category in content["categories"]:
                category["frequency"] = "f"
            (lvis / "annotations" / f"lvis_v1_{name}.json").write_text(json.dumps(content))
        return lvis

    @cached_property
    def detections(self) -> Path:
        """A detector's boxes for the validation images."""
        return write_detections(self.folder / "boxes.json", self.coco)

    @cached_property
    def evaluations(self) -> list[str]:
        """The names of two evaluations on the same images."""
        for name, checkpoint in (("one", "sam_pocket"), ("other", str(self.student))):
            words = [
                f"checkpoint={checkpoint}",
                "evaluation.images=2",
                "evaluation.latency_runs=1",
                "evaluation=shapes",
            ]
            assert main(["evaluate", *words, f"out=runs/evaluations/{name}", "evaluation.protocols=[box_single]"]) == 0
        return ["one", "other"]

    def photo(self, name: str) -> str:
        """An image of 640 x 480 pixels under a name."""
        data = Shapes("validation", 1, size=480)
        Image.fromarray(data.image(0)).resize((640, 480)).save(self.folder / name)
        return name

    def photos(self, name: str) -> str:
        """A folder with an image."""
        (self.folder / name).mkdir(exist_ok=True)
        Image.fromarray(Shapes("validation", 1).image(0)).save(self.folder / name / "a.png")
        return name

    def words(self, words: list[str], settings: dict[str, Any]) -> list[str]:
        """The words of a command's first job, with what their values stand for here.

        Args:
            settings: the composed settings of the command.

        Raises:
            InputError: a placeholder that nothing here stands for.
        """
        if "compare" in words:
            names = iter(self.evaluations)
            words = [next(names) if re.fullmatch("[A-Z]+", word) else word for word in words]
        return [self._word(word, settings, words) for word in jobs(words)[0]]

    def _word(self, word: str, settings: dict[str, Any], others: list[str]) -> str:
        key, sign, value = word.partition("=")
        if key == "evaluation.data.root" and "data.split=all" in others:
            return f"{key}={shutil.copytree(self.sa1b, self.folder / 'data' / 'elsewhere', dirs_exist_ok=True)}"
        if key in ("data.root", "evaluation.data.root"):
            return f"{key}={getattr(self, self._data(settings))}"
        if key == "evaluation.data.annotations":
            return f"{key}={self.coco / 'annotations' / 'instances_val2017.json'}"
        if key in ("data.images", "evaluation.data.images"):
            return f"{key}={self.coco / 'val2017'}"
        if key == "detections":
            return f"{key}={self.detections}"
        if key in ("checkpoint", "method.init", "then.init", "evaluation.reference"):
            return f"{key}={','.join(self._model(name, others) for name in value.split(','))}"
        if key == "teacher.checkpoint":
            return f"{key}={pocket_file(self.folder / 'pocket.pth')}"
        if key == "image":
            return f"{key}={self.photo(value) if Path(value).suffix else self.photos(value)}"
        if key in EXAMPLE and (PLACEHOLDER.search(value) or value == "[my_package]"):
            return f"{key}={EXAMPLE[key]}"
        if key == "runs" and PLACEHOLDER.search(value):
            # The student's run stands there.
            return f"{key}={self.student.parents[1]}"
        if key in ("out", "name", "engine.cache_folder"):
            # Each command that writes to "a folder" has one of its own.
            self._folders += key == "out" and PLACEHOLDER.search(value) is not None
            return f"{key}={PLACEHOLDER.sub(lambda found: f'{found[0].lower()}{self._folders}', value)}"
        if key == "processes":
            return f"{key}=1"
        if PLACEHOLDER.search(value if sign else word) and not key.startswith("hydra."):
            raise InputError(
                f"{word}: Place._word in {Path(__file__).name} does not know what this stands for; tell it"
            )
        return word

    def _model(self, value: str, others: list[str]) -> str:
        if value in MODELS or value in RELEASED:
            # What was released is not here; the pocket teacher takes its place.
            return "sam_pocket"
        if (self.folder / value).exists():
            return value
        return str(self.quantised if "precision=int8" in others else self.student)

    def _data(self, settings: dict[str, Any]) -> str:
        scored = settings.get("evaluation") or {}
        targets = [str((part or {}).get("_target_", "")) for part in (settings.get("data"), scored.get("data"))]
        named = (target.split(".")[1] for target in targets if target and not target.startswith("data.shapes"))
        return next(named, "coco")

    def _made(self, *words: str) -> Path:
        """The student of a run with these settings."""
        before = set(self.folder.glob("runs/*/student.safetensors"))
        assert main([*words, "evaluation.latency_runs=1"]) == 0
        (made,) = set(self.folder.glob("runs/*/student.safetensors")) - before
        return made.relative_to(self.folder)
