"""The vehicle fleet: temperatures watched on the vehicle, a lake, a job that retrains, rollouts; the loop closes twice."""
