"""The render queue: jobs on the disk and the processes that render them."""
