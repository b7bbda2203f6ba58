"""Passes blocks between the GPUs of a node: each rank uploads what it has read, and a collective brings it to all.

**Who moves what.** A rank reads its blocks into host memory of its own, as in the ring (`distributed.ring`), and copies
each to its GPU once. A broadcast from there brings it to the GPUs of the other ranks. So each rank moves 1/N of the
bytes over PCIe. Readers copy from there into tensors, on the device.

**One order.** Every rank of a domain takes part in every broadcast, also of a block that it does not want. Broadcasts
run in the order of the blocks, which all ranks know from the plan. Broadcast number k uses slot k modulo the number of
slots, on each device.

**No rank is left waiting in a collective.** A rank *promises* all broadcasts before number n once it has free slots for
them, and has uploaded its own blocks among them. It sends n to the domain's first rank, the *leader*. The leader
*allows* as many as all ranks have promised. A rank issues what is allowed, and nothing else. So a rank that has failed,
left, or stands still has not promised, and no other has issued what it lacks. Only a rank that dies or is stopped after
its promise can be missing. The others notice the death by its connection, or by the timeout, and abort the group.

**What waits for what.** The host sees the end of each broadcast before it lends its slot to a reader, and the end of
each copy out of the slot before it promises to overwrite it. The broadcast waits for its upload on the device.

**The end.** The group is given up only when the broadcasts have run on all ranks: a GPU may still read from another's
memory when its own part is done. So a fast rank waits for the slowest to be within its slots.
"""
