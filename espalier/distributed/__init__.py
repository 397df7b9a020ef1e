"""Several processes for one job: ranks on one machine, each with a part of the work, that exchange what they find."""
