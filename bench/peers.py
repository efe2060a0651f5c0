#!/usr/bin/env python3
"""What users run today, as processes that compare_peers.py starts: T5 of transformers on PyTorch, and DeepSpeed's
engine. Each prints one JSON line.

  bench/peers.py weights  --model t5-small --out DIR           random weights of the real size
  bench/peers.py step     --model t5-small --precision fp16 --mode eager ...
  bench/peers.py curves   --weights DIR --precision fp16 ...   the loss of each step, in the Trainer's order
  bench/peers.py generate --model t5-small --beams 4 ...
  bench/peers.py engine   --model t5-small --precision fp16 --stage 2 ...
"""
import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import time

started = time.time()

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()

SIZES = {
    "t5-small": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8),
    "t5-large": dict(d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_heads=16),
    "t5-3b": dict(d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32),
}
PREFIX = "translate English to Romanian: "
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
NEW_TOKENS = 64  # of every generated sentence


def model_of(arguments, dropout=0.1):
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=32128, decoder_start_token_id=0, dropout_rate=dropout,
                                   **SIZES[arguments.model])
    with torch.device(arguments.device):
        return transformers.T5ForConditionalGeneration(config)


def sentences(arguments, order=None):
    """Batches of the first 500 rows, in file order or in `order`, padded as the collator pads them."""
    import sentencepiece

    text = sentencepiece.SentencePieceProcessor(model_file=arguments.spiece)
    with open(arguments.train_file, encoding="utf-8") as lines:
        rows = [json.loads(line)["translation"] for line, _ in zip(lines, range(500))]
    rows = [rows[i] for i in order] if order else rows
    multiple = 8 if arguments.precision in HALF else 1
    prefix = PREFIX if arguments.prefix else ""

    def padded(lists, filler):
        width = max(map(len, lists))
        width = arguments.static_length or -(-width // multiple) * multiple
        return torch.tensor([(x[:width] + [filler] * (width - len(x[:width]))) for x in lists],
                            device=arguments.device)

    batches = []
    for first in range(0, len(rows) - arguments.batch + 1, arguments.batch):
        part = rows[first:first + arguments.batch]
        sources = padded([text.encode(prefix + row["en"])[:1023] + [1] for row in part], 0)
        targets = padded([text.encode(row["ro"])[:127] + [1] for row in part], -100)
        batches.append(dict(input_ids=sources, attention_mask=(sources != 0).long(), labels=targets))
    return batches


def synchronize(arguments):
    if arguments.device == "cuda":
        torch.cuda.synchronize()


def memory_in_use(arguments):
    """Bytes that the device has given out, on the CPU the peak of this process."""
    if arguments.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(arguments, milliseconds, **more):
    print(json.dumps({
        **more, "ms_median": round(statistics.median(milliseconds), 3), "ms_min": round(min(milliseconds), 3),
        "steps": len(milliseconds), "peak_bytes": memory_in_use(arguments)}), flush=True)


def training_step(arguments, model):
    """One update as the Trainer makes it: autocast in 16 bits, loss scale in fp16, clipping, fused AdamW."""
    half = HALF.get(arguments.precision)
    torch.backends.cuda.matmul.allow_tf32 = arguments.precision == "tf32"
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(arguments.device, enabled=arguments.precision == "fp16")
    called = torch.compile(model, mode="reduce-overhead") if arguments.mode == "compiled" else model

    def step(batch, rate=None):
        for group in optimizer.param_groups:
            group["lr"] = rate if rate is not None else group["lr"]
        autocast = torch.autocast(arguments.device, dtype=half) if half else contextlib.nullcontext()
        with autocast:
            loss = called(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def half_step(arguments, model):
    """16-bit weights with fp32 masters, as DeepSpeed keeps them, without its engine."""
    masters = [p.detach().float().clone() for p in model.parameters()]
    model.to(HALF[arguments.precision])
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(masters, lr=5e-5, weight_decay=0.0, fused=True)

    def step(batch):
        loss = model(**batch).loss
        (loss * 1024).backward()
        with torch.no_grad():
            for master, weight in zip(masters, weights):
                master.grad, weight.grad = weight.grad.float() / 1024, None
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch._foreach_copy_(weights, masters)
        return loss

    return step


def time_steps(arguments):
    model = model_of(arguments).train()
    arguments.static_length = 64 if arguments.mode == "compiled" else 0
    step = (half_step if arguments.mode == "half" else training_step)(arguments, model)
    batches = sentences(arguments)
    milliseconds = []
    for i in range(arguments.warm_up + arguments.steps):
        synchronize(arguments)
        start = time.perf_counter()
        step(batches[(i - arguments.warm_up) % len(batches)]).item()
        synchronize(arguments)
        if i >= arguments.warm_up:
            milliseconds.append((time.perf_counter() - start) * 1e3)
    report(arguments, milliseconds, peer=f"transformers {transformers.__version__} {arguments.mode}",
           work=f"{arguments.model} {arguments.precision} b{arguments.batch}")


def save_weights(arguments):
    model_of(arguments, arguments.dropout).save_pretrained(arguments.out)
    shutil.copy(arguments.spiece, os.path.join(arguments.out, "spiece.model"))
    print(json.dumps({"weights": arguments.out}))


def loss_curves(arguments):
    """In --precision and in the next more exact one: fp32 beside 16 bits, fp64 beside fp32. Of weights with dropout,
    three times in --precision, with three seeds, and once without dropout."""
    order = torch.randperm(500, generator=torch.Generator().manual_seed(42)).tolist()
    precision = arguments.precision
    names = ["fp64" if precision == "fp32" else "fp32", precision]
    if transformers.T5Config.from_pretrained(arguments.weights).dropout_rate > 0:
        names = [precision, precision + " again", precision + " once more", precision + " without dropout"]
    curves = {}
    for seed, name in enumerate(names):
        arguments.precision = name.split()[0]
        model = transformers.T5ForConditionalGeneration.from_pretrained(
            arguments.weights, **({"dropout_rate": 0.0} if "without" in name else {}))
        if arguments.precision == "fp64":
            model.double()
        torch.manual_seed(seed)
        step = training_step(arguments, model.to(arguments.device).train())
        losses = [step(batch, 5e-5 * (1 - i / arguments.steps)).detach()
                  for i, batch in zip(range(arguments.steps), sentences(arguments, order))]
        curves[name] = [loss.item() for loss in losses]
        del model, step
    print(json.dumps(curves))


def time_generation(arguments):
    model = model_of(arguments).eval()
    batches = sentences(arguments)[:arguments.steps]
    milliseconds = []
    for batch in batches[:1] + batches:  # the first one to warm up
        synchronize(arguments)
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                           max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, num_beams=arguments.beams,
                           do_sample=False)
        synchronize(arguments)
        milliseconds.append((time.perf_counter() - start) * 1e3 / NEW_TOKENS)
    report(arguments, milliseconds[1:], peer=f"transformers {transformers.__version__}",
           work=f"generate {arguments.model} {arguments.precision} b{arguments.batch} beams{arguments.beams}")


def time_engine(arguments):
    """DeepSpeed's engine without the Trainer around it, its kernels compiled at first use."""
    # Of architectures DeepSpeed cannot read those with a letter, which PyTorch's images name.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511",
                      TORCH_CUDA_ARCH_LIST="{}.{}".format(*torch.cuda.get_device_capability()))
    import deepspeed

    deepspeed.init_distributed("nccl")
    fp16 = arguments.precision == "fp16"
    torch.set_default_dtype(torch.float16 if fp16 else torch.float32)
    model = model_of(arguments)
    torch.set_default_dtype(torch.float32)
    with open(arguments.config, encoding="utf-8") as file:
        config = json.load(file)
    d = model.config.d_model
    said = {"train_batch_size": arguments.batch, "train_micro_batch_size_per_gpu": arguments.batch,
            "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "steps_per_print": 10**9}
    config.update({key: said[key] for key in said})
    config["fp16"]["enabled"] = fp16
    config["optimizer"]["params"] = dict(lr=5e-5, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0)
    config["scheduler"]["params"] = dict(warmup_min_lr=0, warmup_max_lr=5e-5, warmup_num_steps=1)
    zero = config["zero_optimization"]
    zero.update({key: value for key, value in {
        "reduce_bucket_size": d * d, "stage3_prefetch_bucket_size": int(0.9 * d * d),
        "stage3_param_persistence_threshold": 10 * d}.items() if zero.get(key) == "auto"})
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    batches = sentences(arguments)
    milliseconds, first = [], None
    for i in range(arguments.warm_up + arguments.steps):
        synchronize(arguments)
        start = time.perf_counter()
        loss = engine(**batches[(i - arguments.warm_up) % len(batches)]).loss
        engine.backward(loss)
        engine.step()
        loss.item()
        synchronize(arguments)
        first = first or time.time() - started
        if i >= arguments.warm_up:
            milliseconds.append((time.perf_counter() - start) * 1e3)
    report(arguments, milliseconds, peer=f"DeepSpeed {deepspeed.__version__}", seconds_to_first_step=round(first, 1),
           work=f"{arguments.model} {arguments.precision} b{arguments.batch}")


def main():
    tasks = {"weights": save_weights, "step": time_steps, "curves": loss_curves, "generate": time_generation,
             "engine": time_engine}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--model", choices=SIZES, default="t5-small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--mode", choices=("eager", "compiled", "half"), default="eager")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--prefix", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--train-file", help="JSON lines with translation.en and translation.ro")
    parser.add_argument("--spiece", help="SentencePiece model with 32100 ids")
    parser.add_argument("--config", help="engine: DeepSpeed's configuration")
    parser.add_argument("--dropout", type=float, default=0.0, help="weights: the model's rate")
    parser.add_argument("--weights", help="curves: a model directory")
    parser.add_argument("--out", help="weights: where they go")
    arguments = parser.parse_args()
    arguments.static_length = 0
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tasks[arguments.task](arguments)


if __name__ == "__main__":
    main()
