from swin_dense.metrics.accuracy import Accuracy, evaluate_predicted_classes
from swin_dense.metrics.coco import CocoMetric, evaluate_coco_files
from swin_dense.metrics.mean_iou import MeanIoU, evaluate_label_map_files
from swin_dense.metrics.scoring import COCO_METRICS, ENGINES, IOU_TYPES, CocoResults

__all__ = [
    "ENGINES",
    "COCO_METRICS",
    "IOU_TYPES",
    "Accuracy",
    "CocoMetric",
    "CocoResults",
    "MeanIoU",
    "evaluate_coco_files",
    "evaluate_label_map_files",
    "evaluate_predicted_classes",
]
