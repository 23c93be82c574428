"""Each loss against numbers worked out by hand or by numpy in float64."""

import math

import numpy as np
import pytest
import torch

from compressors.distill.losses import binary_cross_entropy, dice_loss, embedding_mse, focal_loss, mask_cells, mask_iou

LOGITS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 3
TARGET = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
P, T = 1 / (1 + np.exp(-LOGITS.double().numpy())), TARGET.double().numpy()
ENTROPY = -(T * np.log(P) + (1 - T) * np.log(1 - P))


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_the_losses_by_numpy() -> None:
    close(binary_cross_entropy(LOGITS, TARGET), ENTROPY.mean((-2, -1)))
    close(focal_loss(LOGITS, TARGET), ((0.25 * T + 0.75 * (1 - T)) * (P - T) ** 2 * ENTROPY).mean((-2, -1)))
    close(
        dice_loss(LOGITS, TARGET),
        1 - (2 * (P * T).sum((-2, -1)) + 1) / (P.sum((-2, -1)) + T.sum((-2, -1)) + 1),
    )


def test_focal_loss_of_hard_targets_is_the_published_one() -> None:
    """Lin et al. 2017, eq. 5: ``-alpha_t (1 - p_t)^gamma log p_t``."""
    hard = (T > 0.5).astype(float)
    p_t = np.where(hard == 1, P, 1 - P)
    alpha_t = np.where(hard == 1, 0.25, 0.75)
    close(focal_loss(LOGITS, torch.from_numpy(hard).float()), (-alpha_t * (1 - p_t) ** 2 * np.log(p_t)).mean((-2, -1)))


def test_by_hand() -> None:
    # p = 1/2 everywhere, half of four cells expected.
    logits, target = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert binary_cross_entropy(logits, target).item() == pytest.approx(math.log(2))
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert focal_loss(logits, target).item() == pytest.approx((0.25 + 0.75) / 2 * 0.25 * math.log(2))


@pytest.mark.parametrize("needed", [0.0, 0.3, 1.0])
def test_a_perfect_answer_costs_nothing(needed: float) -> None:
    target = (torch.rand(3, 8, 8) < needed).float()
    logits = (2 * target - 1) * 200
    for loss in (binary_cross_entropy, dice_loss, focal_loss):
        torch.testing.assert_close(loss(logits, target), torch.zeros(3))
        assert (loss(-logits, target) > 0.5).all()


def test_focal_loss_is_least_at_a_soft_target() -> None:
    target = torch.full((1, 1, 1), 0.3)
    logits = torch.linspace(-4, 4, 801)[:, None, None]
    best = logits[focal_loss(logits, target.expand_as(logits)).argmin()].sigmoid()
    assert best.item() == pytest.approx(0.3, abs=0.01)


def test_losses_have_finite_gradients_at_extreme_logits() -> None:
    for loss in (binary_cross_entropy, dice_loss, focal_loss):
        logits = torch.tensor([[[500.0, -500.0], [0.0, 30.0]]], requires_grad=True)
        loss(logits, torch.tensor([[[0.0, 1.0], [0.5, 1.0]]])).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_mask_iou_by_hand() -> None:
    logits = torch.tensor([[[1.0, 1, -1], [1, -1, 0]], [[-1.0, -1, -1], [-1, -1, -1]], [[1.0, 1, 1], [1, 1, 1]]])
    target = torch.tensor([[[0.5, 0.49, 0], [1, 1, 0]], [[0.0, 0.0, 0], [0, 0, 0]], [[0.0, 0, 0], [0, 0, 0]]])
    logits.requires_grad_(True)
    found = mask_iou(logits, target)
    # Two of four; both empty; predicted where nothing is.
    assert found.tolist() == [0.5, 1.0, 0.0]
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_tiny_masks_are_their_fullest_cells() -> None:
    # Covers no cell by half: its fullest cell is the mask, so an empty answer is wrong and that cell is right.
    target = torch.tensor([[0.1, 0.4, 0.0], [0.0, 0.2, 0.0]]).expand(3, -1, -1)
    logits = -torch.ones(3, 2, 3)
    logits[1, 0, 1] = logits[2, 0, 1] = logits[2, 0, 0] = 1.0
    assert mask_iou(logits, target).tolist() == [0.0, 1.0, 0.5]
    assert torch.equal(mask_cells(target[0]), target[0] == 0.4)


def test_mask_iou_by_numpy() -> None:
    a, b = LOGITS.numpy() > 0, TARGET.numpy() >= 0.5
    close(mask_iou(LOGITS, TARGET), (a & b).sum((-2, -1)) / (a | b).sum((-2, -1)))


def test_embedding_mse_counts_the_cells_that_hold_image() -> None:
    student = torch.randn(2, 5, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 5, 4, 4)
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :3], valid[1, :, 0] = True, True
    found = embedding_mse(student, teacher, valid)
    squared = (student.detach() - teacher).double().numpy() ** 2
    cells = valid.numpy()[:, None].repeat(5, 1)
    # Each image counts alike, however much of it is padding.
    by_image = [squared[i][cells[i]].mean() for i in range(2)]
    assert found.item() == pytest.approx(np.mean(by_image), rel=1e-5)

    (gradient,) = torch.autograd.grad(found, student)
    where = valid[:, None].expand_as(gradient)
    assert not gradient[~where].any()
    assert (gradient[where] != 0).all()
    # What stands in the padding does not matter.
    changed = torch.where(where, student.detach(), torch.tensor(1e4))
    assert embedding_mse(changed, teacher, valid).item() == pytest.approx(found.item(), rel=1e-6)


def test_embedding_mse_without_a_mask_is_the_plain_one() -> None:
    a, b = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(embedding_mse(a, b), torch.nn.functional.mse_loss(a, b))
    torch.testing.assert_close(embedding_mse(a, b, torch.ones(2, 4, 4, dtype=torch.bool)), embedding_mse(a, b))
    assert embedding_mse(a, a).item() == 0


def test_embedding_mse_is_computed_in_float32() -> None:
    a, b = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16), torch.zeros(1, 1, 2, 2, dtype=torch.float16)
    assert embedding_mse(a, b).item() == 90_000.0


def test_embedding_mse_of_nothing_is_zero() -> None:
    a, b = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 4, 4)
    assert embedding_mse(a, b, torch.zeros(1, 4, 4, dtype=torch.bool)).item() == 0
