"""What several ranks want is read once: one of them fills it into memory that they share, and each copies it out.

**Who fills what.** Each rank has slots of its own, all of one size, in shared memory that the others map too. It fills
its blocks (`blocks.deal_out`) one after the other: its block number j goes into its slot j modulo their count. So all
ranks know the place of each block without a word, and nobody allocates for another. A filler reads into its own slots
from its own threads, so on NUMA machines each slot lies with its reader.

**Release.** A rank that has copied all that it needs of a block says so to the filler. The slot is filled again when
all takers have said it. So the slowest rank holds up the ring, whose size is fixed, and never makes others buffer more.

**Control.** Messages of nine bytes over the connection that brought the memory (`links`): ready, taken, goodbye. The
kernel orders them with the bytes in the mapping, a wait for one costs no CPU, and a connection that closes without a
goodbye tells of a death at once, of `kill -9` too. Counters in the mapping would need atomic operations that Python
does not have, and would not tell of a death; gloo's messages would need three of its own each.

**No deadlock.** Blocks are numbered in file order. Each rank fills its blocks in this order, and its reads need them in
this order. So of the lowest block that somebody still needs, the slot is free, and its filler is at it or has filled
it; and a rank that needs it waits for nothing but its own memory, which it gets when its caller goes on.

**The end.** A rank that fails, or leaves early, tells the others why (`peers`) and then hangs up; a rank that is killed
is hung up by the kernel. Whoever waits is woken, and asks `peers` whose fault it was. A rank that neither answers nor
dies runs into the timeout of those that wait for it. A rank that is done says goodbye, after which nobody minds its
end; what it has filled stays in the memory, which each rank maps for itself.
"""
