"""A lease: kept, lost, ended; every move that takes a job from its worker."""
