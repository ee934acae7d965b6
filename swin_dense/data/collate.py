"""From samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swin_dense.data.samples import Batch, Sample


def collate(samples: Sequence[Sample], size_divisor: int = 32) -> Batch:
    """Pads the images right and bottom with zeros to one size and puts them into a batch.

    The official recipe pads after it normalises, so the model must set everything beyond `sizes` to zero again once it
    has normalised.

    Args:
        samples: At least one; either all of them have instances or none has; likewise label maps.
        size_divisor: Height and width of the batch are the largest ones rounded up to a multiple of this.

    Returns:
        The batch; images are uint8 (B, 3, H, W). Boxes, masks and label maps keep the size of their own image.
    """
    assert samples, "a batch needs a sample"
    instances = tuple(sample.instances for sample in samples if sample.instances is not None)
    assert len(instances) in (0, len(samples)), "either every sample of a batch has instances or none has"
    label_maps = tuple(sample.label_map for sample in samples if sample.label_map is not None)
    assert len(label_maps) in (0, len(samples)), "either every sample of a batch has a label map or none has"
    height, width = (
        -(-max(side) // size_divisor) * size_divisor for side in zip(*(sample.size for sample in samples), strict=True)
    )
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.size[0], : sample.size[1]] = sample.image
    return Batch(
        images=images,
        sizes=tuple(sample.size for sample in samples),
        original_sizes=tuple(sample.original_size for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        file_names=tuple(sample.file_name for sample in samples),
        instances=instances or None,
        label_maps=label_maps or None,
    )
