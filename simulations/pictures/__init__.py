"""Pictures of runs and sweeps, for people.  Only here is matplotlib imported."""
