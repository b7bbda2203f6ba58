"""A real vLLM on the CPU, for `test_vllm.py`: `python -m tests.engines.vllm_program WHAT ARGUMENT...`.

    models FOLDER                    make a tiny Llama, in three shards, and a tiny mixture of experts
    parameters JSON                  load models in a worker; print the digest of every parameter of each
    tokens JSON                      serve with these options of `LLM`; print greedy tokens, and those after a reload
    measure JSON                     load a model in a worker; print seconds, and the peak of the memory

The last line of the output is JSON.
"""

import gc
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

SETTINGS: Final = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
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


def parameters(loads: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Load each model in a CPU worker, one after the other."""
    import torch
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

    found = []
    for load in loads:
        arguments = EngineArgs(enforce_eager=True, max_model_len=128, dtype="bfloat16", **load)
        executor = OneWorker(arguments.create_engine_config())
        executor.driver_worker.load_model()
        state = executor.driver_worker.model_runner.get_model().state_dict()
        found.append(
            {
                name: hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
                for name, value in state.items()
            }
        )
        del executor, state
        gc.collect()
        cleanup_dist_env_and_memory()
    return found


def tokens(options: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Greedy tokens of an engine, and with the option `reload` those after its weights were spoilt and loaded again."""
    from vllm import LLM, SamplingParams

    reload = options.pop("reload", False)
    engine = LLM(enforce_eager=True, dtype="bfloat16", max_model_len=256, max_num_seqs=4, seed=0, **options)
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

    def generate() -> list[list[int]]:
        return [list(each.outputs[0].token_ids) for each in engine.generate(PROMPTS, greedy, use_tqdm=False)]

    found = {"tokens": generate()}
    if reload:
        engine.collective_rpc(spoil)
        engine.reset_prefix_cache()
        found["spoilt"] = generate()
        engine.collective_rpc("reload_weights")
        engine.reset_prefix_cache()
        found["reloaded"] = generate()
    # Else it waits for its own processes as the interpreter ends, for ever.
    engine.llm_engine.engine_core.shutdown()
    return found


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
        elif what == "parameters":
            result = parameters(json.loads(arguments[0]))
        else:
            result = tokens(json.loads(arguments[0]))
        print(f"\n{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
