"""A real vLLM on the CPU, for `test_vllm.py`: `python -m tests.engines.vllm_program WHAT ARGUMENT...`.

    models FOLDER                    make a tiny Llama, in three shards, and a tiny mixture of experts
    parameters JSON                  load models in a worker; print the digest of every parameter of each
    measure FOLDER SIZE              load a Llama of so many MB in turns, stock and plugin; print seconds and memory
    serve JSON                       run an engine; print what was asked of it, such as its greedy tokens

A line of the output, after `ANSWER`, is JSON.
"""

import gc
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.engines.clones import Clones

SETTINGS: Final = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # functions for `collective_rpc`
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
ANSWER: Final = "answer: "
MEASURED: Final = 5
"""Loads by each loader."""
PROMPTS: Final = ["Hello, my name is", "The capital"]


def make_models(folder: Path) -> list[int]:
    """Models with random weights, and a tokenizer of bytes. Returns the number of shards of each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    shape |= {"vocab_size": 512, "num_key_value_heads": 2, "max_position_embeddings": 512}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(**shape)),
        "moe": MixtralForCausalLM(MixtralConfig(**shape, **experts)),
    }
    for name, model in made.items():
        model.to(torch.bfloat16)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.08)
        model.save_pretrained(folder / name, max_shard_size="2MB" if name == "llama" else "8MB")
        save_tokenizer(folder / name)
    return [len(list((folder / name).glob("*.safetensors"))) for name in made]


def save_tokenizer(folder: Path) -> None:
    """A token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words).save_pretrained(folder)


@contextmanager
def worker(**options: Any) -> Iterator[tuple[Any, Any]]:
    """The configuration of an engine, and a CPU worker in this process that can load its model."""
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.network_utils import get_file_store_init_method
    from vllm.v1.executor import UniProcExecutor
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    class OneWorker(UniProcExecutor):  # type: ignore[misc]
        def _init_executor(self) -> None:
            self.driver_worker = WorkerWrapperBase()
            worker = {"vllm_config": self.vllm_config, "local_rank": 0, "rank": 0, "is_driver_worker": True}
            worker["distributed_init_method"] = get_file_store_init_method()
            self.collective_rpc("init_worker", args=([worker],))
            self.collective_rpc("init_device")

    arguments = EngineArgs(enforce_eager=True, max_model_len=128, dtype="bfloat16", **options)
    config = arguments.create_engine_config()
    executor = OneWorker(config)
    try:
        yield config, executor.driver_worker
    finally:
        del executor
        gc.collect()
        cleanup_dist_env_and_memory()


def parameters(loads: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Load each model in a CPU worker, one after the other."""
    import torch

    found = []
    for load in loads:
        with worker(**load) as (_, loaded):
            loaded.load_model()
            state = loaded.model_runner.get_model().state_dict()
            found.append(
                {
                    name: hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
                    for name, value in state.items()
                }
            )
            del state, loaded
    return found


def measure(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    """Load a model into the same parameters again and again, with vLLM's own loader and with the plugin's, in turns."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.runai_streamer_loader import RunaiModelStreamerLoader
    from vllm.utils.torch_utils import set_default_torch_dtype

    from runai_model_streamer.engines.vllm_loader import StreamerLoader

    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16}
    layers = max(1, megabytes * 10**6 // (2 * (4 * 2048 + 3 * 5632) * 2048))
    with torch.device("meta"):
        made = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=layers, **shape)).to(torch.bfloat16)
    made = made.to_empty(device="cpu")
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    made.save_pretrained(folder, max_shard_size="500MB")
    del made
    save_tokenizer(folder)
    found = []
    with worker(model=str(folder), load_format="runai_streamer") as (config, _), set_current_vllm_config(config):
        loaders = {"stock": RunaiModelStreamerLoader, "plugin": StreamerLoader}
        with set_default_torch_dtype(torch.bfloat16):
            model = StreamerLoader(config.load_config).create_model(config, config.model_config)
        for turn in range(MEASURED + 1):
            for name, loader in loaders.items():
                gc.collect()
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins again
                before, began, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
                with Clones() as clones:
                    loader(config.load_config).load_weights(model, config.model_config)
                row = {"loader": name, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
                row |= {"peak": (status("VmHWM") - before) / 1e6, "clones": clones.count}
                if turn:  # the first one fills the page cache
                    found.append(row)
    return found


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    (line,) = [each for each in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if name in each]
    return int(line.split()[1]) * 1024


def serve(options: dict[str, Any]) -> dict[str, Any]:
    """Run an engine. The option `ask` says what for, of `ANSWERS`; the others are those of `LLM`."""
    from vllm import LLM

    asked = options.pop("ask")
    engine = LLM(enforce_eager=True, dtype="bfloat16", max_model_len=256, max_num_seqs=4, seed=0, **options)
    found = {name: ANSWERS[name](engine) for name in asked}
    # Else it waits for its own processes as the interpreter ends, for ever.
    engine.llm_engine.engine_core.shutdown()
    return found


def tokens(engine: Any) -> list[list[int]]:
    """Greedy tokens."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return [list(each.outputs[0].token_ids) for each in engine.generate(PROMPTS, greedy, use_tqdm=False)]


def reloaded(engine: Any) -> dict[str, list[list[int]]]:
    """Greedy tokens after the weights were set to zero, and after they were loaded again."""
    found = {}
    for name, call in {"zero": spoil, "again": "reload_weights"}.items():
        engine.collective_rpc(call)
        engine.reset_prefix_cache()
        found[name] = tokens(engine)
    return found


def digests(engine: Any) -> list[str]:
    """Of each rank's parameters."""
    return list(engine.collective_rpc(digest))


ANSWERS: Final = {"tokens": tokens, "reloaded": reloaded, "digests": digests}


def digest(worker: Any) -> str:
    """Of all parameters of a worker's model."""
    import torch

    found = hashlib.sha256()
    for name, value in worker.get_model().state_dict().items():
        found.update(name.encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def spoil(worker: Any) -> None:
    """Set every parameter of a worker's model to zero."""
    for parameter in worker.get_model().parameters():
        parameter.data.zero_()


def main() -> None:
    """See the module."""
    what, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(SETTINGS, VLLM_ASSETS_CACHE=cache)
        result: Any
        if what == "models":
            result = make_models(Path(arguments[0]))
        elif what == "measure":
            result = measure(Path(arguments[0]), int(arguments[1]))
        elif what == "parameters":
            result = parameters(json.loads(arguments[0]))
        else:
            result = serve(json.loads(arguments[0]))
        print(f"\n{ANSWER}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
