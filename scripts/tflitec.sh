#!/usr/bin/env bash
# Prepares what the cargo feature `tflitec` builds against, and with --test builds it and runs the detectors' tests on it.
#
# Without it tflitec clones TensorFlow and runs Bazel. The library is the wheel's that setup.sh pins, the headers are those that the
# crate edgefirst-tflite-sys carries, and XNNPACK's is written here: the wheel's library was checked to lay its options out so.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/tflitec.sh [--test]

  (no flag)   prepares runtime/tflitec and prints the variables to build with
  --test      and builds the feature tflitec and runs the detectors' tests on it (some minutes)
TEXT
}

case ${1:-} in
'' | --test) ;;
-h | --help)
    usage
    exit
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

dir=$PWD/runtime/tflitec library=$PWD/runtime/lib/$(uname -m)/libtensorflowlite_c.so
[[ -f $library ]] || {
    echo "tflitec: no $library; run ./setup.sh" >&2
    exit 1
}
manifest=$(cargo metadata --format-version 1 --locked |
    python3 -c 'import json,sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "edgefirst-tflite-sys"))')
rm -rf "$dir"
mkdir -p "$dir/include" "$dir/lib"
cp -r "${manifest%/*}/tensorflow" "$dir/include/"
mkdir -p "$dir/include/tensorflow/lite/c" "$dir/include/tensorflow/lite/delegates/xnnpack"
cat >"$dir/include/tensorflow/lite/c/c_api.h" <<'TEXT'
#include "../core/c/c_api.h"
TEXT
cat >"$dir/include/tensorflow/lite/delegates/xnnpack/xnnpack_delegate.h" <<'TEXT'
#pragma once
#include "tensorflow/lite/core/c/common.h"
typedef struct {
  int32_t num_threads;
  uint32_t flags;
  void *weights_cache;
  bool handle_variable_ops;
  const char *weight_cache_file_path;
} TfLiteXNNPackDelegateOptions;
#ifdef __cplusplus
extern "C" {
#endif
TfLiteXNNPackDelegateOptions TfLiteXNNPackDelegateOptionsDefault(void);
TfLiteDelegate *TfLiteXNNPackDelegateCreate(const TfLiteXNNPackDelegateOptions *options);
void TfLiteXNNPackDelegateDelete(TfLiteDelegate *delegate);
#ifdef __cplusplus
}
#endif
TEXT
cp "$library" "$dir/lib/"

export TFLITEC_PREBUILT_PATH=$dir/lib/libtensorflowlite_c.so TFLITEC_HEADER_DIR=$dir/include
if [[ ${1:-} != --test ]]; then
    printf 'export TFLITEC_PREBUILT_PATH=%q TFLITEC_HEADER_DIR=%q\n' "$TFLITEC_PREBUILT_PATH" "$TFLITEC_HEADER_DIR"
    exit
fi
# The linked library is found by its name.
export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
cargo test --no-default-features --features tflitec --test detect_compliance --test detect_photos -- --nocapture
