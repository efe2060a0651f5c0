#!/usr/bin/env python3
"""Times t5zero beside PyTorch and transformers on the CPU, training steps or (--generate) generation: the same
model size, sentences and thread count, both sides in turn, several rounds, each in a process of its own.

  bench/compare_peers.py --bin build/cpu/bin --train-file train.jsonl --spiece spiece.model [--generate]

Needs torch, transformers and sentencepiece. Prints one JSON line for each process and one with the ratio of
the medians for each work.
"""
import argparse
import json
import statistics
import subprocess
import sys

WORKS = [("fp32", 4), ("fp32", 1), ("fp16", 4), ("bf16", 4)]
NEW_TOKENS = 64  # of every generated sentence


def pytorch_model(arguments):
    """t5-small with random weights, the tokenizer and 500 rows of text."""
    import sentencepiece
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.set_num_threads(arguments.threads)
    text = sentencepiece.SentencePieceProcessor(model_file=arguments.spiece)
    with open(arguments.train_file, encoding="utf-8") as lines:
        rows = [json.loads(line)["translation"] for line, _ in zip(lines, range(500))]
    config = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, vocab_size=32128,
                      decoder_start_token_id=0)
    return T5ForConditionalGeneration(config), text, rows


def pytorch_generation(arguments):
    """Runs in the child process: transformers' generate(), fp32; milliseconds of a step of the whole batch."""
    import resource
    import time

    import torch

    model, text, rows = pytorch_model(arguments)
    model.eval()
    batch_size = arguments.batch
    milliseconds = []
    for step in range(arguments.steps + 1):  # one to warm up
        first = step * batch_size % (len(rows) - batch_size + 1)
        sources = [text.encode("translate English to Romanian: " + row["en"]) + [1]
                   for row in rows[first:first + batch_size]]
        width = max(map(len, sources))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in sources])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sources])
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS,
                           min_new_tokens=NEW_TOKENS, num_beams=arguments.beams, do_sample=False)
        if step >= 1:
            milliseconds.append((time.perf_counter() - start) * 1e3 / NEW_TOKENS)
    print(json.dumps({
        "peer": f"transformers on PyTorch {torch.__version__}",
        "work": f"generate t5-small fp32 b{batch_size} beams{arguments.beams}",
        "ms_median": round(statistics.median(milliseconds), 2), "ms_min": round(min(milliseconds), 2),
        "rounds": len(milliseconds), "threads": arguments.threads,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def pytorch_step(arguments):
    """Runs in the child process: t5-small, fp32, fused AdamW, dropout 0.1, as transformers trains it."""
    import resource
    import time

    import torch

    model, text, rows = pytorch_model(arguments)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    batch_size = arguments.batch
    milliseconds = []
    for step in range(arguments.steps + 2):  # two to warm up
        first = step * batch_size % (len(rows) - batch_size + 1)
        batch = rows[first:first + batch_size]
        sources = [text.encode("translate English to Romanian: " + row["en"]) + [1] for row in batch]
        targets = [text.encode(row["ro"])[:127] + [1] for row in batch]
        width = max(map(len, sources))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in sources])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sources])
        width = max(map(len, targets))
        labels = torch.tensor([t + [-100] * (width - len(t)) for t in targets])
        start = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= 2:
            milliseconds.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({
        "peer": f"PyTorch {torch.__version__}", "work": f"t5-small fp32 b{batch_size}",
        "ms_median": round(statistics.median(milliseconds), 1), "ms_min": round(min(milliseconds), 1),
        "steps": len(milliseconds), "threads": arguments.threads,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def run(command):
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = done.stdout.strip().splitlines()[-1]
    print(line, flush=True)
    return json.loads(line)


def compare_generation(arguments):
    ours, peer = {}, {}
    for _ in range(arguments.rounds):
        for beams in (1, 4):
            ours.setdefault(beams, []).append(run(
                [arguments.bin + "/generation_bench", arguments.train_file, arguments.spiece, "fp32", "4",
                 str(beams), str(NEW_TOKENS), "4", str(arguments.threads)]))
            peer.setdefault(beams, []).append(run(
                [sys.executable, __file__, "--pytorch-child", "--generate", "--batch", "4", "--beams", str(beams),
                 "--train-file", arguments.train_file, "--spiece", arguments.spiece, "--threads",
                 str(arguments.threads), "--steps", "3"]))
    for beams, results in ours.items():
        mine, against = (statistics.median(r["ms_median"] for r in x) for x in (results, peer[beams]))
        print(json.dumps({
            "work": f"generate t5-small fp32 b4 beams{beams}", "t5zero_ms": mine, "transformers_ms": against,
            "speedup": round(against / mine, 2),
            "peak_over_plan_mib": round(max(r["peak_bytes"] - r["planned_bytes"] for r in results) / 2**20, 1)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/cpu/bin", help="where step_bench and generation_bench lie")
    parser.add_argument("--generate", action="store_true", help="generation instead of training steps")
    parser.add_argument("--train-file", required=True, help="JSON lines with translation.en and translation.ro")
    parser.add_argument("--spiece", required=True, help="SentencePiece model with 32100 ids")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--beams", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pytorch-child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pytorch_child:
        (pytorch_generation if arguments.generate else pytorch_step)(arguments)
        return
    if arguments.generate:
        compare_generation(arguments)
        return

    ours, peer = {}, {}
    for _ in range(arguments.rounds):
        for precision, batch in WORKS:
            ours.setdefault((precision, batch), []).append(run(
                [arguments.bin + "/step_bench", arguments.train_file, arguments.spiece, "t5-small", precision, str(batch),
                 str(arguments.steps), str(arguments.threads)]))
            if precision == "fp32":
                peer.setdefault(batch, []).append(run(
                    [sys.executable, __file__, "--pytorch-child", "--batch", str(batch), "--train-file",
                     arguments.train_file, "--spiece", arguments.spiece, "--threads", str(arguments.threads),
                     "--steps", str(arguments.steps)]))

    def median(results):
        return statistics.median(result["ms_median"] for result in results)

    for (precision, batch), results in ours.items():
        against = median(peer[batch])
        print(json.dumps({
            "work": f"t5-small {precision} b{batch}", "t5zero_ms": median(results),
            "pytorch_fp32_ms": against, "speedup": round(against / median(results), 2),
            "over_own_fp32": round(median(results) / median(ours[("fp32", batch)]), 2),
            "peak_over_plan_mib": round(max(r["peak_bytes"] - r["planned_bytes"] for r in results) / 2**20, 1)}))


if __name__ == "__main__":
    main()
