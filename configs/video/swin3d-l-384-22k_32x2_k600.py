"""Video Swin-L at 384 pixels on Kinetics-600, from ImageNet-22K."""

# Starts from weights of ImageNet-22K: --weights FILE --new-classes, inflated.
# The official repository has no config of it: this is that of Swin-B from ImageNet-22K, with the drop path that
# mmaction2 has for Swin-L, and sides enlarged as the crop is. It was published with 10 x 5 views.
_base_ = "../_base_/kinetics_32x2.py"

model = dict(
    type="VideoClassifier",
    backbone=dict(type="SwinDense", variant="swin3d_large_384", drop_path_rate=0.4),
    head=dict(num_classes=600, dropout=0.5),
)
optimizer = dict(learning_rate=3e-4, weight_decay=0.05, backbone_factor=0.1)
training = dict(precision="auto", images_per_step=512)
data = dict(root="data/kinetics600", batch_size=2, eval_batch_size=1)
augmentation = dict(size=384, short_side=438)
validation = dict(short_side=438)
inference = dict(clips=10, crops=5, view_batch_size=4)
