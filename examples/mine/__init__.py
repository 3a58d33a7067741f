"""The mine: grinding lines whose feed a model advises, wired of small services; and the harm that a bad model can't do."""
