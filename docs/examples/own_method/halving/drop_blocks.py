"""Drop transformer blocks of SAM's image encoder, then align its embedding with the teacher's."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn

from compressors.distill.engine import Stage
from compressors.distill.losses import embedding_mse
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed, Compressor, RunContext, check_at_least
from data.batches import ImageBatch, ImageBatches
from data.sample import ImageData
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam, SamConfig


@dataclass(frozen=True)
class DropBlocks(Compressor):
    """Of every few blocks only the last one stays, with its weights; the shorter encoder is distilled.

    Attributes:
        every: of so many blocks one stays. Counted from the end, so that the last block, a global one, always stays.
        steps: optimizer steps.
        batch: images a batch.
        optimisation: of the distillation.
    """

    every: int = 2
    steps: int = 500
    batch: int = 4
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    paper: ClassVar[str] = "none: the worked example of the documents"
    stages: ClassVar[tuple[str, ...]] = ("drop_blocks",)

    def __post_init__(self) -> None:
        check_at_least(self, every=2, steps=1, batch=1)

    def kept(self, depth: int) -> list[int]:
        """The blocks that stay, of so many, in their order."""
        return sorted(range(depth - 1, -1, -self.every))

    def shape(self, teacher: SamConfig) -> SamConfig:
        """The student's shape: the teacher's with fewer blocks.

        Raises:
            InputError: the teacher's image encoder is not SAM's ViT.
        """
        vit: EncoderConfig = teacher.vit
        kept = self.kept(vit.depth)
        shorter = replace(
            vit,
            attention_widths=tuple(vit.attention_widths[i] for i in kept),
            mlp_widths=tuple(vit.mlp_widths[i] for i in kept),
            global_blocks=tuple(place for place, i in enumerate(kept) if i in vit.global_blocks),
        )
        return replace(teacher, encoder=shorter)

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Cut and distil. Labels are never read."""
        config = self.shape(teacher.config).vit
        encoder = deepcopy(teacher.image_encoder)
        encoder.blocks = nn.ModuleList(encoder.blocks[i] for i in self.kept(teacher.config.vit.depth))
        encoder.config = config
        encoder.requires_grad_(True)
        target = context.teacher_embeddings(teacher)

        def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
            return {"embedding": embedding_mse(encoder(batch.images), target(batch), batch.valid)}

        stage = Stage(
            name="drop_blocks",
            key=context.key(self),
            model=encoder,
            batch=ImageBatches(data, teacher.input_size, config.grid, context.seed),
            batch_size=self.batch,
            loss=loss,
            steps=self.steps,
            optimisation=self.optimisation,
        )
        progress = context.engine.fit(stage)
        student = teacher.with_encoder(encoder, f"{teacher.name}-{config.depth}-blocks")
        return Compressed(student.eval().requires_grad_(False), (progress,))
