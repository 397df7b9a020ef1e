"""Jobs that several ranks compute, on a CPU: gloo in the place of NCCL."""
