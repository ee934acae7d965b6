# The official 160k-step recipe: AdamW, linear warm-up, then a straight line to zero; no mixed precision.
optimizer = dict(
    learning_rate=6e-5,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm"),
)
schedule = dict(steps=160000, power=1.0, warmup_steps=1500, warmup_ratio=1e-6)
training = dict(precision="32", images_per_step=16, validate_every=16000)
