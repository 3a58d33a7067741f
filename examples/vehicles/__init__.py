"""The vehicle fleet: temperatures watched on the vehicle, a lake, retraining, rollouts; the loop closes twice."""
