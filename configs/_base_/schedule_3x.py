schedule = dict(epochs=36, milestones=(27, 33), gamma=0.1, warmup_steps=500, warmup_ratio=0.001)
