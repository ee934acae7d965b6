schedule = dict(epochs=12, milestones=(8, 11), gamma=0.1, warmup_steps=500, warmup_ratio=0.001)
