"""Hidden states streamed through the blocks, and statistics of the matrices' inputs."""
