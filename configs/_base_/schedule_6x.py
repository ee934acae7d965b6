schedule = dict(epochs=72, milestones=(63, 69), gamma=0.1, warmup_steps=500, warmup_ratio=0.001)
