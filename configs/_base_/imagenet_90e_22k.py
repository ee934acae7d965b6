# From random weights: the official recipe for ImageNet-22K. (The paper has a linear decay and weight decay 0.01.)
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm", "bias"),
)
schedule = dict(epochs=90, warmup_epochs=5.0, warmup_ratio=1e-3, min_ratio=1e-2)
training = dict(precision="auto", images_per_step=4096, clip_gradient_norm=5.0)
