"""Draw answers with vLLM, for machines with a GPU. It has not run on one yet: the project's checks have none.

Written to the documentation of vLLM 0.8 and later: https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html and
https://docs.vllm.ai/en/latest/features/lora.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import find_base_folder
from rlhf_hitl.policy.completion_jobs import CompletionJob
from rlhf_hitl.policy.draws import Draw, Finish
from rlhf_hitl.policy.model_drawer import TokenReader
from rlhf_hitl.policy.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The ranks of adapters that vLLM makes room for.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmDrawer(TokenReader):
    """Draws answers with vLLM.

    vLLM uses its own random numbers, so a seed gives other completions than transformers does. Each of a prompt's
    completions is a request of its own, with its own seed; vLLM's prefix cache keeps the prompt from being computed
    again.

    Raises:
        BadInput: vllm is not installed.
    """

    window = 1024

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        samplings: Sequence[Sampling],
        folder: Path,
        limit: int | None,
    ):
        if find_spec("vllm") is None:
            raise BadInput(
                "--backend vllm",
                expected="an installed vllm and a GPU",
                fix="`pip install 'rlhf_hitl[vllm]'`, or use --backend transformers",
            )
        super().__init__(name, tokenizer, samplings, limit)
        self._folder, self._base = folder, find_base_folder(folder)
        self._eos = read_eos_ids(self._base, tokenizer)
        self._llm: Any = None
        self._lora: Any = None

    def _load(self) -> Any:
        if self._llm is not None:
            return self._llm
        from vllm import LLM  # type: ignore[import-not-found]

        options: dict[str, Any] = {"model": str(self._base), "tokenizer": str(self._folder)}
        if self._base != self._folder:
            from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

            options |= {"enable_lora": True, "max_lora_rank": find_lora_room(self._folder)}
            self._lora = LoRARequest(self.name, 1, str(self._folder))
        self._llm = LLM(trust_remote_code=False, enable_prefix_caching=True, **options)
        self.warn_without_eos(self._eos)
        return self._llm

    def release(self) -> None:
        """Forget the engine; another one is started when another answer is drawn."""
        self._llm = self._lora = None

    close = release

    def draw(self, jobs: Sequence[CompletionJob], known: Set[str]) -> Iterator[tuple[CompletionJob, Draw | None]]:
        """Yield all draws at the end."""
        jobs = [job for job in jobs if job.key not in known]
        if not jobs:
            return
        from vllm import SamplingParams  # type: ignore[import-not-found]

        llm = self._load()
        parameters = [
            SamplingParams(
                temperature=j.row.temperature,
                top_p=j.row.top_p,
                max_tokens=j.row.max_new_tokens,
                seed=j.row.seed % 2**31,
                stop=list(self.stop) or None,
                stop_token_ids=sorted(self._eos),
            )
            for j in jobs
        ]
        outputs = llm.generate(
            [{"prompt_token_ids": j.prompt_tokens} for j in jobs], parameters, use_tqdm=True, lora_request=self._lora
        )
        for job, output in zip(jobs, outputs):
            yield job, self.read_output(output.outputs[0])

    def read_output(self, output: Any) -> Draw:
        """Return the draw of vLLM's `CompletionOutput`.

        `finish_reason` is "stop" for an EOS and for a stop string; `stop_reason` tells them apart: it is the stop
        string, the id of a token among `stop_token_ids`, or None for the tokenizer's own EOS.
        """
        tokens = list(output.token_ids)
        stopped_by = getattr(output, "stop_reason", None)
        if output.finish_reason == "stop" and not isinstance(stopped_by, str):
            ending = stopped_by if isinstance(stopped_by, int) else min(self._eos, default=None)
            if ending is not None and (not tokens or tokens[-1] not in self._eos):
                tokens.append(ending)  # releases differ in whether they return it
        draw = self.make_draw(tokens, self._eos)
        finish: Finish = "stop" if isinstance(stopped_by, str) else draw.finish
        return Draw(draw.message, finish, draw.tokens)


def read_eos_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return every token id that ends an answer: those of the generation config and the tokenizer's own."""
    path = folder / "generation_config.json"
    configured = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    ids = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None}


def find_lora_room(folder: Path) -> int:
    """Return the least rank for which vLLM makes room that holds an adapter.

    Raises:
        BadInput: its rank is above all of them.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    if rank > LORA_RANKS[-1]:
        raise BadInput(
            f"adapter {folder.name} of rank {rank}",
            expected=f"a rank of up to {LORA_RANKS[-1]}, which vLLM takes",
            fix="merge it into its model, or use --backend transformers",
        )
    return next(r for r in LORA_RANKS if r >= rank)
