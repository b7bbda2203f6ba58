"""Work on tensors' bytes that torch does not do in one pass, twice each: compiled for the host and for CUDA.

One contract for both. `bits` says what can be cast and what becomes of each element.

- `cast(source, target)`: consecutive elements of one floating-point dtype become another's. The source's bytes may
  start anywhere, the target's start at a multiple of its element's size. They do not overlap.
- `gather`: `outer` rows of `inner` bytes, whose starts are `stride` bytes apart, become one run of bytes: a strided
  slice, or, with one row, a tensor that is to be moved to where its dtype suits. Bytes may start anywhere.

`curl_sink` is another thing: what libcurl calls when bytes of an object arrive, so that they need no GIL.

All but `bits` import numba, which takes a third of a second: they are imported when they are needed.
"""
