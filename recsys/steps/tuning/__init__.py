"""Hyper-parameters chosen on validation parts of several data sets: the parts of `recsys tune`."""
