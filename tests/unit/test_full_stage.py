"""TinySAM's losses against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from compressors.distill.losses import embedding_l1
from compressors.tinysam import (
    Truth,
    annotation_losses,
    hard_mask_weights,
    output_loss,
    token_loss,
    truth_of,
)
from teachers.mask_decoder import Decoded


def decoded(logits: Tensor, iou_pred: Tensor | None = None, tokens: Tensor | None = None) -> Decoded:
    count = len(logits)
    return Decoded(
        logits,
        torch.zeros(count, 4) if iou_pred is None else iou_pred,
        torch.zeros(count, 5, 3) if tokens is None else tokens,
    )


def truth(coverage: Tensor, weight: list[float], valid: Tensor | None = None) -> Truth:
    everywhere = torch.ones(coverage.shape, dtype=torch.bool)
    return Truth(coverage, everywhere if valid is None else valid, torch.tensor(weight))


HALF = torch.tensor([[1.0, 1.0], [0.0, 0.0]])


def test_embeddings_over_valid_cells() -> None:
    student, teacher = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    teacher[1, :, 0, 0] = -5
    assert float(embedding_l1(student, teacher)) == pytest.approx((4 + 5 + 3) / 8)
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    valid[1, 0, 0] = valid[1, 0, 1] = False
    assert float(embedding_l1(student, teacher, valid)) == pytest.approx(1.0)
    valid[0, 0, 0] = False
    teacher[0, :, 0, 0] = 100
    assert float(embedding_l1(student, teacher, valid)) == pytest.approx(1.0)


def test_tokens() -> None:
    tokens = torch.zeros(2, 5, 3)
    tokens[0], tokens[1, 0] = -2.0, 15.0
    found = token_loss(
        decoded(torch.zeros(2, 4, 2, 2)),
        decoded(torch.zeros(2, 4, 2, 2), tokens=tokens),
        truth(torch.zeros(2, 2, 2), [0.5, 0.5]),
    )
    # 2 everywhere; 15 in one token of five
    assert float(found) == pytest.approx(0.5 * 2 + 0.5 * 3)


def test_logits_without_hard_masks() -> None:
    student, teacher = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    teacher[0, 1], teacher[1, :, 0, 0] = 4.0, -8.0
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    valid[1, 1] = False
    found = output_loss(decoded(student), decoded(teacher), truth(torch.zeros(2, 2, 2), [0.25, 0.75], valid), None)
    # One candidate of four is 4 off; in the other mask one of two valid cells is 8 off, in every candidate.
    assert float(found) == pytest.approx(0.25 * 1 + 0.75 * 4)


def test_hard_weights_are_the_formula_and_carry_no_gradient() -> None:
    student = torch.tensor([0.5, 0.8, 0.2, 0.9, 0.0], requires_grad=True)
    teacher = torch.tensor([0.5, 0.4, 0.8, 0.0, 0.9])
    weights = hard_mask_weights(student, teacher, 0.0)
    expected = [1 / (1 + math.exp(1 - ratio)) for ratio in (1.0, 0.5, 4.0, 0.0)]
    assert weights[:4].tolist() == pytest.approx(expected)
    assert weights[0] == 0.5 and weights[3] == pytest.approx(0.2689, abs=1e-4)
    assert float(hard_mask_weights(student, teacher, 0.1)[4]) == pytest.approx(1 / (1 + math.exp(1 - 9.0)))
    assert not weights.requires_grad


def test_logits_with_hard_masks() -> None:
    coverage = HALF[None]
    student = torch.stack([2 * HALF - 1, 1 - 2 * HALF, torch.ones(2, 2), 2 * HALF - 1])[None]
    teacher = (2 * HALF - 1).expand(1, 4, 2, 2) * 3
    found = output_loss(decoded(student), decoded(teacher), truth(coverage, [1.0]), 0.5)
    # The student's IoUs with the mask are 1, 0, 1/2 and 1, the teacher's all 1.
    weights = [1 / (1 + math.exp(1 - 1 / (iou + 0.5))) for iou in (1.0, 0.0, 0.5, 1.0)]
    distances = [2.0, 4.0, 3.0, 2.0]
    expected = sum(w * d for w, d in zip(weights, distances, strict=True)) / 4
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_hard_masks_leave_the_gradient_of_the_distance() -> None:
    logits = torch.randn(1, 4, 4, 4, requires_grad=True)
    coverage = torch.ones(1, 4, 4)
    output_loss(decoded(logits), decoded(logits.detach() + 1), truth(coverage, [1.0]), 1e-6).backward()
    assert logits.grad is not None
    # One weight a candidate, times the sign of the error over the number of cells and candidates.
    per_candidate = logits.grad.flatten(2)
    assert torch.equal(per_candidate, per_candidate[..., :1].expand_as(per_candidate))
    assert bool((per_candidate < 0).all())


def test_annotations_train_the_single_mask_and_the_best_of_three() -> None:
    coverage = HALF[None]
    right, wrong = 40 * (2 * HALF - 1), 40 * (1 - 2 * HALF)
    logits = torch.stack([right, wrong, right, wrong])[None]
    iou_pred = torch.tensor([[0.9, 0.5, 1.0, 0.0]])
    terms = annotation_losses(decoded(logits, iou_pred), truth(coverage, [1.0]))
    assert float(terms["focal"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["dice"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["iou"]) == pytest.approx((0.1 + 0.5 + 0 + 0) / 4)
    worst = torch.stack([wrong, wrong, right, wrong])[None]
    terms = annotation_losses(decoded(worst, iou_pred), truth(coverage, [1.0]))
    # The single mask alone is wrong: -log p is 40 in each cell, the focal factors are 1/4 inside and 3/4 outside.
    assert float(terms["focal"]) == pytest.approx(0.5 * 20 * 40 * 0.5, rel=1e-4)
    # No overlap: 1 - 1 / (2 + 2 + 1)
    assert float(terms["dice"]) == pytest.approx(0.5 * 0.8, rel=1e-4)


def test_an_empty_answer_to_a_tiny_mask_is_behind_not_ahead() -> None:
    # Covered by two fifths at most; the teacher finds the cell, the student nothing.
    coverage = torch.tensor([[[0.4, 0.0], [0.0, 0.0]]])
    student, teacher = -torch.ones(1, 4, 2, 2), -torch.ones(1, 4, 2, 2)
    teacher[..., 0, 0] = 1.0
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    found, earlier = (truth_of(coverage[:, None], valid, torch.tensor([True]), kind) for kind in ("cell", "none"))
    # One cell of four is two off. IoU 1 over 0 + 1, then 0 over 1 + 1.
    loss, turned = (output_loss(decoded(student), decoded(teacher), t, 1.0) for t in (found, earlier))
    assert float(loss) == pytest.approx(0.5 / (1 + math.exp(1 - 1 / 1)))
    assert float(turned) == pytest.approx(0.5 / (1 + math.exp(1 - 0 / 2)))
    ious = [annotation_losses(decoded(student, torch.zeros(1, 4)), t)["iou"] for t in (found, earlier)]
    assert [float(iou) for iou in ious] == [0.0, 1.0]


def test_images_without_annotations_add_nothing_and_the_others_count_alike() -> None:
    coverage = torch.rand(3, 2, 8, 8)
    valid = torch.ones(3, 2, 2, dtype=torch.bool)
    valid[1, :, 1] = False
    found = truth_of(coverage, valid, torch.tensor([True, True, False]))
    assert found.weight.tolist() == pytest.approx([1 / 6] * 4 + [0, 0])
    assert found.valid.shape == (6, 8, 8) and torch.equal(found.coverage, coverage.flatten(0, 1))
    # The right half of the second image is padding.
    assert bool(found.valid[2:4, :, :4].all()) and not bool(found.valid[2:4, :, 4:].any())
    student, teacher = decoded(torch.randn(6, 4, 8, 8)), decoded(torch.randn(6, 4, 8, 8), tokens=torch.ones(6, 5, 3))
    first = [output_loss(student, teacher, found, 1e-6), token_loss(student, teacher, found)]
    student.logits[4:], teacher.tokens[4:] = 100, 100
    again = [output_loss(student, teacher, found, 1e-6), token_loss(student, teacher, found)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert float(first[1]) == pytest.approx(4 / 6)
