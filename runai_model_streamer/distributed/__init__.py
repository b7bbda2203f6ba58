"""Shares one load between the processes of a torch.distributed group: each reads a part and passes it to the others."""
