"""Reads bytes that several ranks want once: one rank reads them into shared memory, and each copies them from there.

**Who fills what.** Each rank has its own slots, all of one size, in shared memory that the others map too. It fills its
blocks (`blocks.deal_out`) in order: its block number j goes into its slot j modulo the number of slots. So all ranks
know the place of each block without a message, and no rank allocates for another. A rank's own threads fill its slots,
so on NUMA machines each slot is local to its reader.

**Release.** A rank that has copied all it needs of a block tells the filler. The slot is filled again once all takers
have done so. So the slowest rank slows the ring down. The ring's size is fixed: no rank ever buffers more.

**Control.** Messages of nine bytes go over the connection that brought the memory (`links`): ready, taken, goodbye. The
kernel orders them with the bytes in the mapping, and a wait for one costs no CPU. A connection that closes without a
goodbye means that the process died, by `kill -9` too. Counters in the mapping would need atomic operations, which
Python does not have, and would not show a death. gloo would need three messages for each of these.

**No deadlock.** Blocks are numbered in file order. Each rank fills its blocks in this order, and needs them in this
order. So the slot of the lowest block that any rank still needs is free, and its filler fills it or has filled it. A
rank that needs the block waits only for its own memory, which it gets when its caller continues.

**The end.** A rank that fails or leaves early tells the others why (`peers`) and then closes its connections. If a rank
is killed, the kernel closes them. All waiting ranks wake, and ask `peers` which rank is at fault. A rank that neither
answers nor dies makes those that wait for it time out. A rank that is done says goodbye, and may then end at any time:
what it has filled stays in the memory, which each rank maps for itself.
"""
