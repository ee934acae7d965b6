# From random weights: the official recipe for ImageNet-1K.
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm", "bias"),
)
schedule = dict(epochs=300, warmup_epochs=20.0, warmup_ratio=1e-3, min_ratio=1e-2)
training = dict(precision="auto", images_per_step=1024, clip_gradient_norm=5.0)
