"""The mine: grinding lines whose feed a model advises, wired of small services; what a bad model can't do to them."""
