"""One load shared by the processes of a torch.distributed group: each reads a part, and sends it to the others."""
