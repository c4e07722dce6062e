"""The networks as torch modules: what is trained.  `training.export` makes of them what `sfumato` runs."""
