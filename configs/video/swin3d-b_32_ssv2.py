"""Video Swin-B on Something-Something V2, from Kinetics-400."""

# Starts from weights of Kinetics-400: --weights FILE --new-classes. Tables of other windows are resized.
_base_ = "../_base_/something_something_32.py"

model = dict(
    type="VideoClassifier",
    backbone=dict(type="SwinDense", variant="swin3d_base", drop_path_rate=0.4, window_size=(16, 7, 7)),
    head=dict(num_classes=174, dropout=0.5),
)
optimizer = dict(learning_rate=3e-4, weight_decay=0.05, backbone_factor=0.1)
training = dict(precision="auto", images_per_step=512)
