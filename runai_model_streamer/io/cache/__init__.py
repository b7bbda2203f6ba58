"""A cache of objects on the node's disk, which its processes and pods share."""
