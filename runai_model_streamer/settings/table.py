"""The table of environment variables. `config` parses with it, `variables` has its names, and the docs show it."""

from collections.abc import Mapping
from typing import Final

from runai_model_streamer.settings import parsers
from runai_model_streamer.settings.cache import CACHE
from runai_model_streamer.settings.others import OTHERS
from runai_model_streamer.settings.setting import Setting

PREFIX: Final = "RUNAI_STREAMER_"

_AUTO: Final = parsers.choice("auto", "0", "1")

SECTIONS: Final[Mapping[str, tuple[Setting, ...]]] = {
    "Reading": (
        Setting(
            "RUNAI_STREAMER_CONCURRENCY",
            "concurrency",
            parsers.whole(1, 1024),
            "16 for files, 8 for objects",
            "Network mounts want more reads in flight (raise it). For files it is the most reads in flight, each a "
            "thread; a local disk begins with 4 (for each disk of an array), and gets more while that makes it "
            "faster. For objects it means what it means in the original: one counts for up to 50 connections. There "
            "are 16 to begin with, and more while that makes it faster, up to 512: [S3](s3.md#connections). More than "
            "1024 count as 1024.",
        ),
        Setting(
            "RUNAI_STREAMER_CHUNK_BYTESIZE",
            "chunk_bytesize",
            parsers.size(1),
            "`8MiB`",
            "Requests cost more than bytes: raise it for a store that is far away. The minimum is 2 MiB for files and "
            "5 MiB for objects; less counts as that. Unless this or a memory limit is set, storage of tens of GB/s is "
            "read in up to 32 MiB, and so is the page cache where there are few CPUs.",
        ),
        Setting(
            "RUNAI_STREAMER_MEMORY_LIMIT",
            "memory_limit",
            parsers.memory_limit(),
            "`-1`",
            "The process has to stay small: [memory limit](memory.md).",
        ),
        Setting(
            "RUNAI_STREAMER_DIRECT_IO",
            "direct_io",
            _AUTO,
            "`auto`",
            "Files are read once, from a file system where `auto` uses the page cache, such as NFS or Lustre: compare "
            "with `1`. `0` reads everything through the page cache, so that the next load finds it there.",
        ),
        Setting(
            "RUNAI_STREAMER_GDS",
            "gds",
            _AUTO,
            "`auto`",
            "You want GPUDirect Storage or an error that says why not (`1`), or never (`0`): [GPU](gpu.md).",
        ),
        Setting(
            "RUNAI_STREAMER_PINNED",
            "pinned",
            _AUTO,
            "`auto`",
            '`device="cpu"` on a machine with a GPU: you want page-locked memory or an error that says why not (`1`), '
            "or never (`0`): [GPU](gpu.md#tensors-on-the-host).",
        ),
        Setting(
            "RUNAI_STREAMER_MAX_BANDWIDTH",
            "max_bandwidth",
            parsers.bandwidth(),
            "`0`, no bound",
            "Others share the network or the disk. It bounds all reads of a load together, also those of files. Each "
            "process has its own bound.",
        ),
        Setting(
            "LOCAL_WORLD_SIZE",
            "local_processes",
            parsers.whole(1),
            "`1`",
            "Launchers such as torchrun set it: the processes of this node that load the same files. Above 1, `auto` "
            "reads files through the page cache, so that the disk is read once.",
        ),
        Setting(
            "RUNAI_STREAMER_PROCESS_GROUP_SIZE",
            "local_processes",
            parsers.whole(1),
            "`1`",
            "The same, for a launcher that does not set it. The largest number counts.",
        ),
        Setting(
            "SLURM_STEP_TASKS_PER_NODE",
            "local_processes",
            parsers.slurm_tasks(),
            "`1`",
            "Never: `srun` sets it. It counts like `LOCAL_WORLD_SIZE`, which `srun` does not set.",
        ),
        Setting(
            "RUNAI_STREAMER_DIRECTIO",
            "direct_io",
            parsers.former("1"),
            "`0`",
            "Never: it is the original's spelling of `RUNAI_STREAMER_DIRECT_IO=1`, for settings that exist already. "
            "The new spelling wins.",
        ),
    ),
    "Object storage": (
        Setting(
            "RUNAI_STREAMER_S3_ENDPOINT",
            "s3.endpoint",
            parsers.text("URL"),
            "none: what boto3 finds",
            "The streamer uses another store than the other programs do. It wins over `AWS_ENDPOINT_URL`.",
        ),
        Setting(
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING",
            "s3.virtual_addressing",
            parsers.flag(),
            "`1`",
            "The store has no host for each bucket: `0` asks for `host/bucket/key` instead of `bucket.host/key`.",
        ),
        Setting(
            "RUNAI_STREAMER_S3_UNSIGNED",
            "s3.unsigned",
            parsers.flag(),
            "`0`",
            "The bucket is public, and you have no credentials. Explicit `S3Credentials` win over it.",
        ),
        Setting(
            "RUNAI_STREAMER_CONNECTIONS",
            "s3.connections",
            parsers.whole(1, 1024),
            "none: as many as bring the most",
            "You want this number of connections, neither fewer nor more. It wins over `RUNAI_STREAMER_CONCURRENCY`.",
        ),
        Setting(
            "RUNAI_STREAMER_HEDGE",
            "s3.hedge",
            parsers.flag(),
            "`1`",
            "A range that lags far behind the others is asked for a second time, up to 5% of all bytes. `0`: each "
            "byte is asked for once.",
        ),
        Setting(
            "RUNAI_STREAMER_S3_MAX_RETRIES",
            "s3.max_retries",
            parsers.whole(0),
            "`8`",
            "A store fails for longer than nine attempts last. It counts the attempts after the first, for each range.",
        ),
        Setting(
            "RUNAI_STREAMER_S3_TIMEOUT",
            "s3.timeout",
            parsers.seconds(),
            "`30`",
            "Answers take longer. A request is tried again after this time without a connection or an answer, or with "
            "less than 1 KiB each second.",
        ),
        Setting(
            "RUNAI_STREAMER_S3_TRANSPORT",
            "s3.transport",
            parsers.choice("auto", "curl", "boto3"),
            "`auto`",
            "You want libcurl or an error that says what is missing (`curl`), or boto3 alone.",
        ),
        Setting(
            "RUNAI_STREAMER_HTTP_TOKEN",
            "web.tokens",
            parsers.tokens(),
            "none",
            "A web server (`https://`, `http://`) asks for a bearer token: `HOST=TOKEN`, several with commas between "
            "them. It goes to that host alone, never along with a redirect: [web servers](stores.md#web-servers).",
            secret=True,
        ),
        Setting(
            "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS",
            "gcs.anonymous",
            parsers.flag(),
            "`0`",
            "The bucket of a `gs://` URL is public, and you have no credentials.",
        ),
        Setting(
            "RUNAI_STREAMER_GCS_CREDENTIAL_FILE",
            "gcs.credential_file",
            parsers.text("a file's path"),
            "none: what google-auth finds",
            "The streamer reads `gs://` URLs with other credentials than other programs do: the key of a service "
            "account, or a file of workload identity.",
        ),
        Setting(
            "RUNAI_STREAMER_VERIFY",
            "verify",
            parsers.flag(),
            "`0`",
            "You want objects compared with their store's checksums: [S3](s3.md#checksums), "
            "[others](stores.md#checksums).",
        ),
    ),
    "Cache on the node": CACHE,
    "Several processes": (
        Setting(
            "RUNAI_STREAMER_DIST",
            "distribution",
            _AUTO,
            "`auto`",
            "Code that you cannot change has `is_distributed=True`, and each rank should read for itself (`0`). Or you "
            "want a warning where ranks do not share (`1`): [several processes](processes.md).",
        ),
        Setting(
            "RUNAI_STREAMER_DIST_GLOBAL",
            "distribute_globally",
            parsers.flag(),
            "`0`",
            "All ranks should share the reads, not only those of a node.",
        ),
        Setting(
            "RUNAI_STREAMER_DIST_TIMEOUT",
            "distribution_timeout",
            parsers.seconds(),
            "`600`",
            "A rank pauses for longer between two tensors.",
        ),
        Setting(
            "RUNAI_STREAMER_DIST_FANOUT",
            "fan_out",
            parsers.choice("auto", "memory", "device", "sockets"),
            "`auto`",
            "The ranks of a node should share memory, or fail with an error that says why they cannot (`memory`). Or "
            "their GPUs should pass on what each rank reads (`device`). Or they should send each other what they read "
            "(`sockets`), as `auto` does where they cannot share memory: [eight GPUs](eight_gpus.md).",
        ),
    ),
    "Engines": (
        Setting(
            "RUNAI_STREAMER_VLLM",
            "vllm",
            parsers.flag(),
            "`0`",
            "vLLM should load `runai_streamer` onto its device, without a copy of each tensor: [engines](engines.md).",
        ),
        Setting(
            "RUNAI_STREAMER_SGLANG",
            "sglang",
            parsers.flag(),
            "`0`",
            "SGLang should do so: [engines](engines.md#sglang).",
        ),
    ),
    "Logs and traces": (
        Setting(
            "RUNAI_STREAMER_LOG_LEVEL",
            "log_level",
            parsers.log_level(),
            "none: the host's own (`logging.basicConfig(level=...)`); INFO with `RUNAI_STREAMER_LOG_TO_STDERR`",
            "You look for the cause of something (`DEBUG`).",
        ),
        Setting(
            "RUNAI_STREAMER_LOG_TO_STDERR",
            "log_to_stderr",
            parsers.flag(),
            "`0`",
            "The host does not show the log lines of libraries.",
        ),
        Setting(
            "RUNAI_STREAMER_TRACE",
            "trace",
            parsers.trace(),
            "none",
            "You want to see what each thread did: [tuning](tuning.md#a-trace-of-every-read). `{pid}` and `{rank}` in "
            "the path are replaced by the process id and the rank.",
        ),
    ),
}
"""Heading in docs/environment.md -> its variables, in the order of the page."""

SETTINGS: Final = (*(setting for section in SECTIONS.values() for setting in section), *OTHERS)
