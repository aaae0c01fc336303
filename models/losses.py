"""The losses by name, any weighted sum of them, for all classes (softmax) and for specialists (sigmoid).

Ignored pixels (255) have exactly zero gradient in every term, and a batch that holds nothing else has loss 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from config.data import IGNORE_INDEX
from config.losses import CrossEntropy, Focal, LossTerm

EPS = 1e-7  # the denominator of dice and jaccard for a class that is nowhere; smp's


def build_loss(terms: Sequence[LossTerm], num_classes: int, class_weight_C: object | None, binary: bool) -> nn.Module:
    """The weighted sum of some terms.

    Args:
        num_classes: C; for a specialist it is not used.
        class_weight_C: (C,) weights for ce and focal, or (2,) for a specialist: of the other classes, of its class.
        binary: whether the network is a specialist: one channel, and targets 0 and 1.
    """
    weight_C = None if class_weight_C is None else torch.as_tensor(class_weight_C, dtype=torch.float32)
    wanted = 2 if binary else num_classes
    if weight_C is not None and weight_C.shape != (wanted,):
        raise ValueError(f"class_weight_C has shape {tuple(weight_C.shape)}; expected ({wanted},)")
    return WeightedSum(terms, num_classes, weight_C, binary)


class WeightedSum(nn.Module):
    """logits (N, C, H, W) float32, or (N, 1, H, W) for a specialist; target (N, H, W) int64, 255 ignored -> scalar.

    ce and focal are means over the pixels that are not ignored (of mixed tiles, by the shares of their two targets):
    weighted by their number, the losses of several micro-batches add up to exactly that of the large batch. dice,
    jaccard and lovasz are statistics of a batch: their mean over micro-batches is a mean of statistics and not that of
    the large batch.
    """

    def __init__(self, terms: Sequence[LossTerm], num_classes: int, weight_C: Tensor | None, binary: bool) -> None:
        super().__init__()
        self.terms, self.binary = list(terms), binary
        self.register_buffer("weight_C", weight_C, persistent=False)
        index_C = torch.tensor([1]) if binary else torch.arange(num_classes)  # a specialist's one channel is class 1
        self.register_buffer("index_C11", index_C[:, None, None], persistent=False)

    def forward(
        self, logits: Tensor, target_NHW: Tensor, second_NHW: Tensor | None = None, share_N: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            second_NHW, share_N: for mixed tiles the other target, and the share of the first in the loss. ce and focal
                take each tile's own share; the terms that are statistics of the batch take the shares' mean.
        """
        if second_NHW is None:
            return self._loss(logits, [(target_NHW, None)])
        return self._loss(logits, [(target_NHW, share_N), (second_NHW, 1 - share_N)])

    def _loss(self, logits: Tensor, targets: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        pixel_means = all(isinstance(term, CrossEntropy | Focal) for term in self.terms)
        probs = None if pixel_means else logits.sigmoid() if self.binary else logits.softmax(1)
        total = logits.new_zeros(())
        for term in self.terms:
            if isinstance(term, CrossEntropy | Focal):
                loss = self._pixel_mean(term, logits, targets)
            else:
                shares = [1.0 if share_N is None else share_N.mean() for _, share_N in targets]
                losses = [self._statistic(term.name, logits, probs, target_NHW) for target_NHW, _ in targets]
                loss = sum(share * loss for share, loss in zip(shares, losses, strict=True))
            total = total + term.weight * loss
        return total

    def _pixel_mean(
        self, term: CrossEntropy | Focal, logits: Tensor, targets: list[tuple[Tensor, Tensor | None]]
    ) -> Tensor:
        total, count = logits.new_zeros(()), logits.new_zeros(())
        for target_NHW, share_N in targets:
            if isinstance(term, CrossEntropy):
                loss_NHW = self._cross_entropy(logits, target_NHW, self.weight_C, term.label_smoothing)
            else:
                loss_NHW = self._focal(logits, target_NHW, term.gamma)
            valid_NHW = target_NHW != IGNORE_INDEX
            if share_N is None:
                total, count = total + loss_NHW.sum(), count + valid_NHW.sum()
            else:
                total = total + (share_N * loss_NHW.sum((1, 2))).sum()
                count = count + (share_N * valid_NHW.sum((1, 2))).sum()
        return total / count.clamp_min(EPS)  # nothing valid: 0 / EPS

    def _cross_entropy(self, logits: Tensor, target_NHW: Tensor, weight_C: Tensor | None, smoothing: float) -> Tensor:
        """(N, H, W), 0 where ignored."""
        if not self.binary:
            return functional.cross_entropy(
                logits,
                target_NHW,
                weight_C,
                ignore_index=IGNORE_INDEX,
                reduction="none",
                label_smoothing=smoothing,
            )
        valid_NHW = target_NHW != IGNORE_INDEX
        yes_NHW = torch.where(valid_NHW, target_NHW, 0) * (1 - smoothing) + smoothing / 2
        of_no, of_yes = (1.0, 1.0) if weight_C is None else weight_C
        softplus, logits_NHW = functional.softplus, logits[:, 0]  # -log(1 - p) and -log p of the sigmoid
        loss_NHW = of_yes * yes_NHW * softplus(-logits_NHW) + of_no * (1 - yes_NHW) * softplus(logits_NHW)
        return torch.where(valid_NHW, loss_NHW, 0.0)

    def _focal(self, logits: Tensor, target_NHW: Tensor, gamma: float) -> Tensor:
        """(N, H, W), 0 where ignored (Lin et al. 2017). Of the softmax: smp's multiclass focal loss is a sigmoid per
        class, and would train what the softmax at prediction never sees."""
        ce_NHW = self._cross_entropy(logits, target_NHW, None, 0.0)
        # clamped: where 1 - p is 0, as on ignored pixels, the gradient of a power below 1 is infinite
        missing_NHW = (-torch.expm1(-ce_NHW)).clamp_min(EPS)
        loss_NHW = missing_NHW**gamma * ce_NHW
        if self.weight_C is None:
            return loss_NHW
        return loss_NHW * self.weight_C[torch.where(target_NHW == IGNORE_INDEX, 0, target_NHW)]

    def _statistic(self, name: str, logits: Tensor, probs: Tensor | None, target_NHW: Tensor) -> Tensor:
        return self._lovasz(logits, probs, target_NHW) if name == "lovasz" else self._overlap(name, probs, target_NHW)

    def _lovasz(self, logits: Tensor, probs: Tensor, target_NHW: Tensor) -> Tensor:
        """Of all classes the Lovász-softmax, the mean over classes with truth; of a specialist the Lovász hinge.

        Equal to smp's LovaszLoss (a test says so), which asks the device for the valid pixels and for each class
        whether it has truth: the host waits for the answer C + 1 times a batch.
        """
        truth_NCHW = target_NHW[:, None] == self.index_C11
        error_NCHW = 1 - logits * (2.0 * truth_NCHW - 1) if self.binary else (truth_NCHW.float() - probs).abs()
        # Ignored pixels come last, where they weigh nothing.
        error_NCHW = torch.where((target_NHW != IGNORE_INDEX)[:, None], error_NCHW, -torch.inf)
        error_CP, truth_CP = (each.movedim(1, 0).flatten(1) for each in (error_NCHW, truth_NCHW))
        loss_C, has_truth_C = lovasz_extension(error_CP, truth_CP), truth_CP.any(1)
        return loss_C[0] if self.binary else (loss_C * has_truth_C).sum() / has_truth_C.sum().clamp_min(1)

    def _overlap(self, name: str, probs: Tensor, target_NHW: Tensor) -> Tensor:
        """Mean over classes of 1 - soft dice (or IoU) of the whole batch; a class without truth counts 0.

        Equal to smp's DiceLoss and JaccardLoss (a test says so), which make int64 one-hot targets and so take 75 ms
        where this takes 28 (forward and backward, 8 tiles of 256 px, 10 classes, two cores).
        """
        valid_N1HW = (target_NHW != IGNORE_INDEX)[:, None]
        truth_NCHW = target_NHW[:, None] == self.index_C11
        both_C = torch.where(truth_NCHW, probs, 0.0).sum((0, 2, 3))
        pred_C, truth_C = (probs * valid_N1HW).sum((0, 2, 3)), truth_NCHW.sum((0, 2, 3))
        total_C = pred_C + truth_C
        score_C = 2 * both_C / total_C.clamp_min(EPS) if name == "dice" else both_C / (total_C - both_C).clamp_min(EPS)
        return ((1 - score_C) * (truth_C > 0)).mean()


def lovasz_extension(error_CP: Tensor, truth_CP: Tensor) -> Tensor:
    """(C,) the Lovász extension of 1 - IoU at the errors of pixels (Berman et al. 2018, algorithm 1).

    Args:
        error_CP: float; negative ones count as 0.
        truth_CP: bool, whether the pixel is of the class.
    """
    error_CP, order_CP = error_CP.sort(1, descending=True)
    truth_CP = truth_CP.gather(1, order_CP).float()
    missed_C1 = truth_CP.sum(1, keepdim=True)
    jaccard_CP = 1 - (missed_C1 - truth_CP.cumsum(1)) / (missed_C1 + (1 - truth_CP).cumsum(1))
    weight_CP = torch.cat([jaccard_CP[:, :1], jaccard_CP.diff(dim=1)], 1)
    return (error_CP.relu() * weight_CP).sum(1)
