"""Video Swin-B on Kinetics-400, from ImageNet-22K."""

# Starts from weights of ImageNet-22K: --weights FILE --new-classes, inflated.
_base_ = "../_base_/kinetics_32x2.py"

model = dict(
    type="VideoClassifier",
    backbone=dict(type="SwinDense", variant="swin3d_base", drop_path_rate=0.2),
    head=dict(num_classes=400, dropout=0.5),
)
optimizer = dict(learning_rate=3e-4, weight_decay=0.05, backbone_factor=0.1)
training = dict(precision="auto", images_per_step=512)
