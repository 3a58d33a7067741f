"""The fleet's demo and its devices: a rollout that stops by itself and takes back what it did."""
