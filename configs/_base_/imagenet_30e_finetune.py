# Fine-tuning of trained weights: the official recipe. (The paper has a constant learning rate of 1e-5.)
optimizer = dict(
    learning_rate=4e-5,
    weight_decay=1e-8,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm", "bias"),
)
schedule = dict(epochs=30, warmup_epochs=5.0, warmup_ratio=1e-3, min_ratio=1e-2)
training = dict(precision="auto", images_per_step=1024, clip_gradient_norm=5.0)
