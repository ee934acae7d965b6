from swin_dense.metrics.coco import CocoMetric, evaluate_coco_files
from swin_dense.metrics.detections import ImageDetections
from swin_dense.metrics.scoring import ENGINES, FIGURES, IOU_TYPES, CocoResults

__all__ = ["ENGINES", "FIGURES", "IOU_TYPES", "CocoMetric", "CocoResults", "ImageDetections", "evaluate_coco_files"]
