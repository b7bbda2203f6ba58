"""A real vLLM on the CPU, for `test_vllm.py`: `python -m tests.engines.vllm_program WHAT ARGUMENT...`.

    models FOLDER                    make a tiny Llama, in three shards, and a tiny mixture of experts
    parameters JSON                  load models in a worker; print each one's parameters, and how many were cloned
    serve JSON                       run an engine; print what was asked of it, such as its greedy tokens

A line of the output, after `ANSWER`, is JSON.
"""

import copy
import gc
import hashlib
import json
import os
import shutil
import sys
import tempfile
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


def parameters(loads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Load each model in a CPU worker, one after the other. `save` says where vLLM then saves what it has."""
    found = []
    for load in loads:
        folder = load.pop("save", "")
        with worker(**load) as (config, _), Clones() as cloned:
            state = loaded(config).state_dict()
            found.append({"parameters": {name: digest(value) for name, value in state.items()}, "cloned": cloned.count})
            del state
            if folder:
                save(config, folder)
    return found


def loaded(config: Any) -> Any:
    """The model as its loader leaves it. vLLM then packs the weights of linear layers for the CPU, and drops them."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.utils.torch_utils import set_default_torch_dtype

    config = copy.deepcopy(config)
    config.compilation_config.static_forward_context.clear()  # the names of layers that there are
    loader = get_model_loader(config.load_config)
    with set_current_vllm_config(config), set_default_torch_dtype(config.model_config.dtype):
        model = loader.create_model(config, config.model_config)
        loader.load_weights(model, config.model_config)
    return model


def digest(tensor: Any) -> str:
    """Of the bytes of a tensor."""
    import torch

    assert tensor.numel()
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def save(config: Any, folder: str) -> None:
    """Have vLLM save the parameters of this rank, next to the configuration of the model."""
    from vllm.model_executor.model_loader import ShardedStateLoader

    for path in Path(config.model_config.model).glob("*.json"):
        if "index" not in path.name:
            shutil.copy(path, folder)
    ShardedStateLoader.save_model(loaded(config), folder, max_size=1_500_000)


def save_rank(worker: Any, folder: str) -> None:
    """The same, of a worker."""
    save(worker.vllm_config, folder)


def serve(options: dict[str, Any]) -> dict[str, Any]:
    """Run an engine. The option `ask` says what for, of `ANSWERS`; `save` is as above, and the others are `LLM`'s."""
    from vllm import LLM

    asked, folder = options.pop("ask"), options.pop("save", "")
    engine = LLM(enforce_eager=True, dtype="bfloat16", max_model_len=256, max_num_seqs=4, seed=0, **options)
    found = {name: ANSWERS[name](engine) for name in asked}
    if folder:
        engine.collective_rpc(save_rank, args=(folder,))
    # Else it waits for its own processes as the interpreter ends, for ever.
    engine.llm_engine.engine_core.shutdown()
    return found


def tokens(engine: Any) -> list[list[int]]:
    """Greedy tokens."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return [list(each.outputs[0].token_ids) for each in engine.generate(PROMPTS, greedy, use_tqdm=False)]


def piped(engine: Any) -> list[list[int]]:
    """Greedy tokens of a pipeline. vLLM makes what a stage gets from the one before it as it warms up: not if eager."""
    engine.collective_rpc("execute_dummy_batch")
    return tokens(engine)


def routed(engine: Any) -> list[list[int]]:
    """Greedy tokens of expert parallelism, which vLLM's experts on the CPU cannot run as they are."""
    engine.collective_rpc(take_local_experts)
    return tokens(engine)


def reloaded(engine: Any) -> list[list[int]]:
    """Greedy tokens after the weights were lost, and loaded again."""
    assert min(engine.collective_rpc(lose_weights)) > 5
    engine.collective_rpc("reload_weights")
    engine.reset_prefix_cache()
    return tokens(engine)


ANSWERS: Final = {"tokens": tokens, "piped": piped, "routed": routed, "reloaded": reloaded}


def take_local_experts(worker: Any) -> None:
    """Have vLLM's experts on the CPU run those that this rank has.

    Their kernel takes an expert's number in the whole model for its place among this rank's, and reads past their end.
    """
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    run = CPUUnquantizedExperts.apply

    def run_local(experts: Any, *, topk_ids: Any, topk_weights: Any, expert_map: Any, **others: Any) -> None:
        places = expert_map[topk_ids.long()]
        others |= {"topk_weights": topk_weights * (places >= 0), "topk_ids": places.clamp(min=0).to(topk_ids.dtype)}
        run(experts, expert_map=expert_map, **others)

    CPUUnquantizedExperts.apply = run_local


def lose_weights(worker: Any) -> int:
    """Leave the parameters of a worker's model as sleep level 2 does on a GPU: where they were, with any bytes in them.

    Returns their number. What vLLM has packed for the CPU is not among them.
    """
    lost = [parameter for parameter in worker.get_model().parameters() if parameter.numel()]
    for parameter in lost:
        parameter.data.fill_(float("nan"))
    return len(lost)


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
            result = serve(json.loads(arguments[0]))
        print(f"\n{ANSWER}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
