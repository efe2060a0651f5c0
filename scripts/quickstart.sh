#!/usr/bin/env bash
# Installs, builds, and fine-tunes t5-small (ZeRO-2, fp16) from scratch on the bundled sentence pairs. Downloads
# nothing but Debian packages. Options given to this script go to the program: scripts/quickstart.sh --max_steps 100.
# Relative paths in them count from where the script is called.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# On the GPU where there is one, and a compiler for it.
preset=cpu
if command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  preset=cuda
fi
T5ZERO_PRESET=$preset "$root/scripts/build.sh" t5_small_zero2_fp16

# Where the model will lie: the last --output_dir counts, in any spelling.
model="$root/output_dir/quickstart"
previous=
for word in "$@"; do
  case "$previous" in --output[_-]*) model="$word" ;; esac
  case "$word" in --output[_-]*=*) model="${word#*=}" ;; esac
  previous="$word"
done

data="$root/examples/data/en-ro"
"$root/build/$preset/bin/t5_small_zero2_fp16" \
  --deepspeed "$root/examples/config/ds_config_zero2.json" \
  --config_name t5-small --from_scratch --fp16 \
  --do_train --do_eval \
  --source_lang en --target_lang ro --source_prefix "translate English to Romanian: " \
  --train_file "$data/train.jsonl" --validation_file "$data/validation.jsonl" \
  --per_device_train_batch_size 8 --learning_rate 1e-3 --max_steps 30 --logging_steps 5 \
  --output_dir "$root/output_dir/quickstart" --overwrite_output_dir "$@"

# Options such as --help or --plan leave no model.
if [[ -f "$model/config.json" ]]; then
  cat <<TEXT

The model lies in $model. To translate with it:
  T5ZERO_PRESET=$preset "$root/scripts/build.sh" translate
  echo "The house is big." | "$root/build/$preset/bin/translate" "$model" --source_prefix "translate English to Romanian: "
TEXT
fi
