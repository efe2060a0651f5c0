#!/usr/bin/env python3
"""t5zero beside PyTorch, transformers and DeepSpeed: the same model sizes and sentences, each side in a process of
its own, in turn on one machine.

  bench/compare_peers.py steps    --bin build/cpu/bin  --train-file F --spiece S
  bench/compare_peers.py generate --bin build/cpu/bin  --train-file F --spiece S
  bench/compare_peers.py steps generate curves --device cuda --bin build/cuda/bin --train-file F --spiece S \\
      --results bench/results/h200.json --plot curves.png
  bench/compare_peers.py --table bench/results/h200.json     the Markdown table of the README

Needs torch, transformers and sentencepiece, for --engine DeepSpeed, for --plot matplotlib. Prints a JSON line for
each process and for each comparison; leaves with 1 if a loss curve is farther from PyTorch's than it may be, or a
program of ours failed.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.py")
CONFIGS = os.path.join(os.path.dirname(PEERS), "..", "examples", "config")
PREFIX = "translate English to Romanian: "

# name, model, precision, batch, prefix, what the peers are timed as
CPU_STEPS = [("t5-small fp32 b4", "t5-small", "fp32", 4, True, ["eager"]),
             ("t5-small fp32 b1", "t5-small", "fp32", 1, True, ["eager"]),
             ("t5-small fp16 b4", "t5-small", "fp16", 4, True, []),
             ("t5-small bf16 b4", "t5-small", "bf16", 4, True, [])]
GPU_STEPS = [("t5-small zero2 fp16 b1", "t5-small", "fp16", 1, False, ["eager", "compiled"]),
             ("t5-small fp16 b4", "t5-small", "fp16", 4, True, ["eager"]),
             ("t5-small fp32 b4", "t5-small", "fp32", 4, True, ["eager", "compiled"]),
             ("t5-large zero2 fp32 b4", "t5-large", "fp32", 4, False, ["eager", "compiled"]),
             ("t5-large fp32 b1", "t5-large", "fp32", 1, False, ["eager"]),
             ("t5-large zero2 tf32 b4", "t5-large", "tf32", 4, False, ["eager", "compiled"]),
             ("t5-3b zero3 fp16 b1", "t5-3b", "fp16", 1, False, ["half", "compiled"])]
ENGINE = {"t5-small zero2 fp16 b1": "ds_config_zero2.json", "t5-large zero2 fp32 b4": "ds_config_zero2.json",
          "t5-3b zero3 fp16 b1": "ds_config_zero3.json"}
GENERATIONS = [("generate t5-small b4 greedy", 1), ("generate t5-small b4 beams4", 4)]  # and the beams
# executable, ZeRO stage, model, precision, batch, updates, dropout
CURVES = [("t5_small_zero2_fp16", 2, "t5-small", "fp16", 1, 500, 0.0),
          ("t5_small_plain", 0, "t5-small", "fp32", 4, 100, 0.0),
          ("t5_large_zero2", 2, "t5-large", "fp32", 4, 100, 0.0), ("t5_3b_zero3_fp16", 3, "t5-3b", "fp16", 1, 50, 0.0),
          ("t5_small_zero2_fp16", 2, "t5-small", "fp16", 1, 500, 0.1)]


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        print(json.dumps({"failed": command[:4], "says": done.stderr[-600:]}), flush=True)
        return None
    print(lines[-1] if len(lines[-1]) < 2000 else lines[-1][:200] + " ...", flush=True)
    return json.loads(lines[-1])


def curve_name(model, precision, batch, dropout):
    return f"{model} {precision} b{batch}" + (f", dropout {dropout}" if dropout > 0 else "")


def median(results):
    return statistics.median(result["ms_median"] for result in results)


class comparison:
    def __init__(self, arguments):
        self.arguments = arguments
        self.data = ["--train-file", arguments.train_file, "--spiece", arguments.spiece]
        self.agrees = True
        self.step_works = GPU_STEPS if arguments.device == "cuda" else CPU_STEPS

    def peer(self, task, **options):
        command = [sys.executable, PEERS, task, "--device", self.arguments.device, "--threads",
                   str(self.arguments.threads), *self.data]
        for name, value in options.items():
            name = "--" + name.replace("_", "-")
            command += [name if value else "--no-" + name[2:]] if isinstance(value, bool) else [name, str(value)]
        return run(command)

    def program(self, name):
        on_gpu = self.arguments.device == "cuda"
        return os.path.join(self.arguments.bin, name + ("_cuda" if on_gpu and name.endswith("_bench") else ""))

    def add(self, work, ours, peers):
        """ours: results of our program; peers: name to results. The fastest peer is named. May be called again when
        there are more results."""
        self.agrees = self.agrees and all(ours)
        ours = [r for r in ours if r]
        if not ours:
            return
        peers = {name: [r for r in results if r] for name, results in peers.items()}
        timed = {name: median(results) for name, results in peers.items() if results}
        best = min(timed, key=timed.get) if timed else None
        row = {"work": work, "ms": round(median(ours), 4), "floor_ms": ours[0].get("floor_ms"), "peer": best,
               "peer_ms": timed.get(best), "gpu_gib": round(max(r["peak_bytes"] for r in ours) / 2**30, 3),
               "planned_gib": round(max(r["planned_bytes"] for r in ours) / 2**30, 3),
               "context_gib": round(max(r["context_bytes"] for r in ours) / 2**30, 3),
               "device": ours[0].get("device"), "commit": self.arguments.commit, "peers": timed}
        print(json.dumps(row), flush=True)
        if self.arguments.results:
            save(self.arguments.results, row)

    def selected(self, work):
        return not self.arguments.only or any(word in work for word in self.arguments.only)

    def works(self):
        """The names of all that the command line's words stand for."""
        names = {"steps": [step[0] for step in self.step_works], "generate": [work for work, _ in GENERATIONS],
                 "curves": [curve_name(model, precision, batch, dropout)
                            for _, _, model, precision, batch, _, dropout in CURVES]}
        return [name for what in self.arguments.what for name in names[what]]

    def steps(self):
        on_gpu = self.arguments.device == "cuda"
        for work, model, precision, batch, prefix, modes in self.step_works:
            if not self.selected(work):
                continue
            ours, peers = [], {}
            count = self.arguments.steps or (40 if on_gpu else 12)
            for _ in range(self.arguments.rounds):
                ours.append(run([self.program("step_bench"), *self.data[1::2], model, precision, str(batch),
                                 str(count), str(self.arguments.threads), PREFIX if prefix else ""]))
                self.add(work, ours, peers)
                for mode in modes:
                    peers.setdefault("transformers " + mode, []).append(self.peer(
                        "step", model=model, precision=precision, batch=batch, mode=mode, prefix=prefix,
                        steps=count, warm_up=8 if on_gpu else 2))
                    self.add(work, ours, peers)
            if self.arguments.engine and work in ENGINE:
                peers["DeepSpeed"] = [self.peer(
                    "engine", model=model, precision=precision, batch=batch, prefix=prefix, steps=count,
                    warm_up=4, config=os.path.join(CONFIGS, ENGINE[work]))]
                self.add(work, ours, peers)

    def generate(self):
        for work, beams in GENERATIONS:
            if not self.selected(work):
                continue
            ours, peers = [], []
            for _ in range(self.arguments.rounds):
                ours.append(run([self.program("generation_bench"), *self.data[1::2], "fp32", "4", str(beams), "64",
                                 "4", str(self.arguments.threads)]))
                peers.append(self.peer("generate", batch=4, beams=beams, steps=4))
            self.add(work, ours, {"transformers": peers})

    def curves_of(self, work, executable, stage, model, precision, batch, updates, dropout):
        """Losses of the documented run beside PyTorch's from the same weights."""
        with tempfile.TemporaryDirectory() as place:
            weights, output = os.path.join(place, "weights"), os.path.join(place, "output")
            self.peer("weights", model=model, dropout=dropout, out=weights)
            flags = ["--fp16"] if precision == "fp16" else []
            if stage > 0:  # the stage alone: optimizer and schedule stay the Trainer's, as PyTorch's are here
                config = os.path.join(place, "ds_config.json")
                with open(config, "w", encoding="utf-8") as file:
                    json.dump({"zero_optimization": {"stage": stage}, "train_micro_batch_size_per_gpu": "auto",
                               "gradient_clipping": "auto",
                               "fp16": {"enabled": "auto", "initial_scale_power": 16, "loss_scale_window": 2000,
                                        "hysteresis": 1}}, file)
                flags += ["--deepspeed", config]
            start = time.perf_counter()
            seconds_to_first = None
            command = [self.program(executable), "--model_name_or_path", weights, "--do_train", *flags, "--train_file",
                       self.arguments.train_file, "--source_lang", "en", "--target_lang", "ro", "--max_train_samples",
                       "500", "--per_device_train_batch_size", str(batch), "--max_steps", str(updates),
                       "--logging_steps", "1", "--source_prefix", PREFIX, "--save_strategy", "no", "--output_dir",
                       output, "--disable_tqdm", "True"]
            with open(os.path.join(place, "says"), "w+", encoding="utf-8") as says:
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=says, text=True) as process:
                    for line in process.stdout:
                        if seconds_to_first is None and "'loss'" in line:
                            seconds_to_first = round(time.perf_counter() - start, 3)
                says.seek(0)
                if process.returncode != 0 or seconds_to_first is None:
                    return self.failed(work, says.read())
            with open(os.path.join(output, "trainer_state.json"), encoding="utf-8") as file:
                ours = [float(e["loss"]) for e in json.load(file)["log_history"] if "loss" in e]
            peer = self.peer("curves", precision=precision, weights=weights, batch=batch, steps=updates)
            if peer is None:
                return self.failed(work, "its peer failed")
            result = {"work": work, "run": executable, "commit": self.arguments.commit, "updates": len(ours),
                      "seconds_to_first_step": seconds_to_first}
            near = masked_alike(ours, *peer.values(), result) if dropout > 0 else \
                rounded_alike(precision, ours, *peer.values(), result)
            result["agrees"] = len(ours) == updates and near
            self.agrees = self.agrees and result["agrees"]
            print(json.dumps(result), flush=True)
            if self.arguments.plot:
                lines = {"PyTorch " + name: line for name, line in peer.items()}
                lines["t5zero " + precision] = ours
                losses = os.path.splitext(self.arguments.plot)[0] + ".json"
                save(losses, {**result, "losses":
                              {name: [round(loss, 6) for loss in line] for name, line in lines.items()}})
                plot(losses, self.arguments.plot)

    def failed(self, work, says):
        print(json.dumps({"failed": work, "says": says[-600:]}), flush=True)
        self.agrees = False

    def compare_curves(self):
        for executable, stage, model, precision, batch, updates, dropout in CURVES:
            work = curve_name(model, precision, batch, dropout)
            if self.selected(work):
                self.curves_of(work, executable, stage, model, precision, batch, updates, dropout)


def rounded_alike(precision, ours, exact, rounded, result):
    """Whether our losses are as near to more exact ones as PyTorch's are. Of 16 bits PyTorch's fp32 is the truth, of
    fp32 its double: rounding grows from step to step, in PyTorch as here, so that is what both are measured from."""
    away = [abs(a - b) for a, b in zip(ours, exact)]
    peer_away = [abs(a - b) for a, b in zip(rounded, exact)]
    result.update(mean_difference=statistics.mean(away), peer_mean_difference=statistics.mean(peer_away))
    if precision != "fp32":
        return result["mean_difference"] <= 1.5 * result["peer_mean_difference"]
    largest = max(abs(a - b) for a, b in zip(ours[:50], rounded))
    result.update({"largest_difference_50": largest, "within_1e-4": largest <= 1e-4,
                   "largest_from_fp64_50": max(away[:50]), "peer_largest_from_fp64_50": max(peer_away[:50])})
    # Losses are logged with four decimals.
    return max(away[:50]) <= max(1e-4, 1.5 * (max(peer_away[:50]) + 5e-5))


def masked_alike(ours, peer, again, once_more, unmasked, result):
    """Whether the mean of our last 100 losses differs from that of PyTorch's three seeds within the noise: three
    standard errors of the differences on the same sentences, or what two of the seeds differ by. `tells_dropout`: would
    PyTorch without dropout be told apart?"""
    peers = [peer[-100:], again[-100:], once_more[-100:]]
    middle = [statistics.mean(losses) for losses in zip(*peers)]

    def distance(losses):
        differences = [a - b for a, b in zip(losses[-100:], middle)]
        return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5

    means = [statistics.mean(losses) for losses in peers]
    spread = max(means) - min(means)
    mean, error = distance(ours)
    noise = max(3 * error, spread)
    result.update(mean_difference_100=mean, standard_error=error, spread_of_seeds=spread,
                  without_dropout_100=distance(unmasked)[0])
    result["tells_dropout"] = abs(result["without_dropout_100"]) > noise
    return abs(mean) <= noise


def plot(losses, path):
    """Draws the curves of a JSON file that curves_of has written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(losses, encoding="utf-8") as file:
        curves = json.load(file)
    figure, places = pyplot.subplots(2, len(curves), squeeze=False, figsize=(5 * len(curves), 7))
    for curve, (upper, lower) in zip(curves, zip(*places)):
        exact_name, *others = curve["losses"]
        exact = curve["losses"][exact_name]
        updates = range(1, len(exact) + 1)
        upper.plot(updates, exact, label=exact_name, linewidth=1)
        for name in others:
            line, = upper.plot(updates, curve["losses"][name], label=name, linewidth=1)
            lower.semilogy(updates, [abs(a - b) + 1e-9 for a, b in zip(curve["losses"][name], exact)], label=name,
                           linewidth=1, color=line.get_color())
        upper.set(title=f"{curve['work']} ({curve['run']})", xlabel="update", ylabel="loss")
        lower.set(xlabel="update", ylabel="distance from " + exact_name)
        upper.legend()
        lower.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def save(path, row):
    """The row takes the place of that of the same name."""
    rows = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            rows = {row["work"]: row for row in json.load(file)}
    rows[row["work"]] = row
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join("  " + json.dumps(row) for row in rows.values()) + "\n]\n")


def lacks_compiled(row):
    """Was a GPU's step timed without the peer that is the fastest there?"""
    is_gpu_step = (row["device"] or "").startswith("NVIDIA") and not row["work"].startswith("generate")
    return is_gpu_step and not any("compiled" in peer for peer in row["peers"])


def fastest_peer(row):
    return row["peer"] + " (compiled: not timed)" * lacks_compiled(row) if row["peer"] else ""


def times_faster(row):
    """Than the fastest peer; empty where that was not timed."""
    return f"{row['peer_ms'] / row['ms']:.1f}" if row["peer"] and not lacks_compiled(row) else ""


def print_table(path):
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    print("| work | ms | floor | of the floor | fastest peer timed | its ms | times faster | GiB planned | in use | "
          "of it the driver's context | commit |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        floor, peer = row["floor_ms"], row["peer_ms"]
        digits = 2 if row["ms"] >= 1 else 3
        floor_cells = f"{floor:.{digits}f} | {row['ms'] / floor:.1f}" if floor else " | "
        print(f"| {row['work']} | {row['ms']:.{digits}f} | {floor_cells} | {fastest_peer(row)} | "
              + f"{f'{peer:.1f}' if peer else ''} | {times_faster(row)} | "
              + f"{row['planned_gib']:.2f} | {row['gpu_gib']:.2f} | {row['context_gib']:.2f} | {row['commit']} |")


def what_is_missing(arguments, compared):
    """The first thing that a comparison would stop at, with its repair; None: nothing."""
    for flag, path in (("--train-file", arguments.train_file), ("--spiece", arguments.spiece)):
        if not os.path.isfile(path):
            return f"{flag} {path}: there is no such file"
    preset = "cuda" if arguments.device == "cuda" else "cpu"
    programs = {"steps": ["step_bench"], "generate": ["generation_bench"],
                "curves": sorted({curve[0] for curve in CURVES})}
    for name in (name for what in arguments.what for name in programs[what]):
        if not os.access(compared.program(name), os.X_OK):
            return (f"--bin {arguments.bin}: {compared.program(name)} is not there; cmake --preset {preset} && cmake "
                    f"--build build/{preset} --target {os.path.basename(compared.program(name))}")
    for module in ["torch", "transformers", "sentencepiece"] + ["deepspeed"] * arguments.engine + \
            ["matplotlib"] * bool(arguments.plot):
        if importlib.util.find_spec(module) is None:
            return f"the Python module {module} is not installed: pip install {module}"
    if not any(compared.selected(work) for work in compared.works()):
        return (f"--only {' '.join(arguments.only)}: no work's name has one of these words; the works are "
                + ", ".join(compared.works()))
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="steps|generate|curves")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bin", default="build/cpu/bin", help="where the programs lie")
    parser.add_argument("--train-file", help="JSON lines with translation.en and translation.ro")
    parser.add_argument("--spiece", help="spiece.model of a published T5: 32000 pieces, which makes 32100 ids")
    parser.add_argument("--only", nargs="*", help="words of the names of works; without it all")
    parser.add_argument("--engine", action="store_true", help="DeepSpeed, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0,
                        help="timed steps of a process; at most the sentences divided by the batch")
    parser.add_argument("--rounds", type=int, default=0, help="processes of each side; 3 on the CPU, 1 on a GPU")
    parser.add_argument("--results", help="JSON file that takes the rows in")
    parser.add_argument("--plot", help="image of the loss curves; the losses lie beside it as JSON and are added to")
    parser.add_argument("--commit", default="", help="what was measured, for the rows")
    parser.add_argument("--table", help="prints the rows of a JSON file as Markdown, and that is all")
    arguments = parser.parse_args()
    if arguments.table:
        try:
            print_table(arguments.table)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"--table {arguments.table}: not a file that --results wrote ({error!r})")
        return 0
    unknown = set(arguments.what) - {"steps", "generate", "curves"}
    if unknown:
        parser.error(f"nothing to compare is called {', '.join(sorted(unknown))}")
    if not (arguments.what and arguments.train_file and arguments.spiece):
        parser.error("what to compare, --train-file and --spiece are needed")
    arguments.rounds = arguments.rounds or (1 if arguments.device == "cuda" else 3)
    compared = comparison(arguments)
    if missing := what_is_missing(arguments, compared):
        parser.error(missing)
    if "steps" in arguments.what:
        compared.steps()
    if "generate" in arguments.what:
        compared.generate()
    if "curves" in arguments.what:
        compared.compare_curves()
    return 0 if compared.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
