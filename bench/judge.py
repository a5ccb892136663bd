"""The one judge of all adapters: mean loss over the answer tokens of SAMPLES, one row at a time, in float32.

python judge.py MODEL SAMPLES.jsonl ADAPTER [ADAPTER ...]      prints {adapter: loss}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    model_name, samples, *adapters = sys.argv[1:]
    import torch
    from peft import PeftModel
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    rows = [json.loads(line) for line in Path(samples).read_text(encoding="utf-8").splitlines()]
    encoded = [[tokenizer(r[k], add_special_tokens=False)["input_ids"] for k in ("prompt", "answer")] for r in rows]
    found = {}
    for adapter in adapters:
        base = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
        total = 0.0
        with torch.inference_mode():
            for prompt, answer in encoded:
                logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
                total += cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
        found[adapter] = total / sum(len(answer) for _prompt, answer in encoded)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
