"""The judge of drawn digits: a small convolutional classifier that has seen real digits alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from digits import JUDGE_AUGMENTATION, SIDE
from trt_var_training.data import ArrayImages, Batches

WIDTH = 64  # of the features that the Fréchet distance is taken in


class Classifier(nn.Module):
    """Images uint8 [n, 32, 32, 3] → logits [n, 10] and the features before them [n, 64]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.inner, self.outer = nn.Linear(64 * (SIDE // 8) ** 2, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float().mean(3).unsqueeze(1) / 127.5 - 1
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        features = F.relu(self.inner(x.flatten(1)))
        return self.outer(features), features


class ClassifierObjective:
    """Cross-entropy of the class."""

    def __init__(self, model: Classifier, batches: Batches) -> None:
        self.trained, self._model, self._batches = model, model, batches

    def losses(self, step: int) -> dict[str, Tensor]:
        images, labels, _ = self._batches(step)
        logits, _ = self._model(((images + 1) * 127.5).permute(0, 2, 3, 1))
        return {"loss": F.cross_entropy(logits, labels), "correct": (logits.argmax(1) == labels).float().mean()}


def judge_batches(images: ArrayImages, seed: int) -> Batches:
    """Augmented more widely than the generator's, so that the judge is no specialist of the generator's range."""
    return Batches(images, 64, seed, JUDGE_AUGMENTATION)


def accuracy(model: Classifier, images: ArrayImages) -> float:
    """Share of the images whose class is seen right."""
    with torch.no_grad():
        logits, _ = model.eval()(torch.from_numpy(images.images))
    return float((logits.argmax(1) == torch.tensor(images.labels)).float().mean())
