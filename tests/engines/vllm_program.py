"""A real vLLM on the CPU, for `test_vllm.py`: `python -m tests.engines.vllm_program WHAT ARGUMENT...`.

    models FOLDER                    make a tiny Llama, in three shards
    parameters JSON                  load models in a worker; print the digest of every parameter of each
    tokens MODEL FORMAT EXTRA        serve; print greedy tokens

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


def make_models(folder: Path) -> int:
    """A Llama with random weights, and a tokenizer of bytes. Returns the number of shards."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=512, num_key_value_heads=2, max_position_embeddings=512, **shape)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder, max_shard_size="2MB")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words).save_pretrained(folder)
    return len(list(folder.glob("*.safetensors")))


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


def tokens(model: str, load_format: str, extra: dict[str, Any]) -> list[list[int]]:
    """Greedy tokens of an engine."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=model,
        load_format=load_format,
        model_loader_extra_config=extra,
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=256,
        max_num_seqs=4,
        seed=0,
    )
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    found = [list(each.outputs[0].token_ids) for each in engine.generate(PROMPTS, greedy, use_tqdm=False)]
    # Else it waits for its own processes as the interpreter ends, for ever.
    engine.llm_engine.engine_core.shutdown()
    return found


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
            result = tokens(arguments[0], arguments[1], json.loads(arguments[2]))
        print(f"\n{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
