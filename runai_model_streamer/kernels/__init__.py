"""Work on tensors' bytes that torch does not do while they land, compiled for the host and for CUDA.

`cast(source, target)` of both: consecutive elements of one floating-point dtype become another's. The source's bytes
may start anywhere, the target's start at a multiple of its element's size. They do not overlap. `bits` says what can be
cast and what becomes of each element.

`curl_sink` is another thing: what libcurl calls when bytes of an object arrive, so that they need no GIL.

All but `bits` import numba, which takes a third of a second: they are imported when they are needed.
"""
