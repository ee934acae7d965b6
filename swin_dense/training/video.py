"""The Lightning module that trains classifiers of videos by the official recipe, and scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swin_dense.inference.video import VideoInference
from swin_dense.training.base import configured_inference
from swin_dense.training.classification import ClassifierModule, Mixing
from swin_dense.training.optim import NO_DECAY


class VideoClassifierModule(ClassifierModule):
    """Trains a classifier of videos with any Lightning trainer; logs metrics as `val/METRIC`, for instance `val/top1`.

    The length of the training is the trainer's: `Trainer(max_epochs=30).fit(VideoClassifierModule(model),
    datamodule=data)`. Training clips come from the data module at the size at which they are trained on; validation
    videos come whole, and `inference` says which views of them are looked at.

    Example:
        >>> import swin_dense, warnings
        >>> from swin_dense.training import VideoClassifierModule
        >>> warnings.simplefilter("ignore")  # no weights are given: they are random
        >>> model = swin_dense.load("swin3d-t_32x2_k400", device="cpu")
        >>> module = VideoClassifierModule(model)
        >>> module.hparams.learning_rate, module.hparams.backbone_factor, module.inference.views.clips
        (0.001, 0.1, 4)
    """

    def __init__(
        self,
        model: Any,
        metric: Any = None,
        inference: VideoInference | None = None,
        *,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        backbone_factor: float = 0.1,
        warmup_epochs: float = 2.5,
        warmup_ratio: float = 0.1,
        min_ratio: float = 0.0,
        seed: int = 0,
        patience: int = 10,
    ) -> None:
        """Takes the parts; the defaults are the official recipe of Swin-T on Kinetics, for 256 clips a step.

        Args:
            model: What `swin_dense.load` gives, or an `nn.Module` with `network`, `normalised` and `logits`.
            metric: Scores its predictions; None makes an `Accuracy` of the trainer's data module.
            inference: How the classifier is run on videos; its clips and views are those of the data module, which
                reads them.
            label_smoothing: Part of the target that all classes share.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            backbone_factor: Factor on the learning rate of the whole backbone.
            warmup_epochs: Length of the linear warm-up, after which half a cosine follows.
            warmup_ratio: First factor of the warm-up.
            min_ratio: Last factor.
            seed: Of the randomness inside a training step.
            patience: Batches in a row whose loss may be not finite in float16, where the gradient scaler skips them.
        """
        super().__init__(
            model,
            metric,
            inference or configured_inference(model) or VideoInference(),
            mixing=Mixing(),
            label_smoothing=label_smoothing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            betas=betas,
            no_decay=no_decay,
            layer_decay=layer_decay,
            backbone_factor=backbone_factor,
            warmup_epochs=warmup_epochs,
            warmup_ratio=warmup_ratio,
            min_ratio=min_ratio,
            seed=seed,
            patience=patience,
        )

    def setup(self, stage: str) -> None:
        """Looks at videos as the data module reads them: a batch holds the clips of its views, and no whole file."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "views"):
            self.inference = replace(self.inference, sampling=data.sampling, views=data.views, timeline=False)
        super().setup(stage)
