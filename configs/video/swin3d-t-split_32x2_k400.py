"""Video Swin-T, attention over time split off behind the last stage (Table 4)."""

# Starts from weights of ImageNet-1K: --weights FILE --new-classes, inflated; the layers over time are new.
_base_ = "../_base_/kinetics_32x2.py"

model = dict(
    type="VideoClassifier",
    backbone=dict(
        type="SwinDense",
        variant="swin3d_tiny",
        drop_path_rate=0.1,
        window_size=(16, 7, 7),
        spatiotemporal_attention="split",
    ),
    head=dict(num_classes=400, dropout=0.5),
)
optimizer = dict(learning_rate=1e-3, weight_decay=0.02, backbone_factor=0.1)
training = dict(precision="auto", images_per_step=256)
