#!/usr/bin/env bash
# Sets up and runs every check and test that needs no special hardware; stops at nothing but a failed set-up, and says
# at the end what failed.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./test.sh [--arm64]

  --arm64   also cross-builds for arm64 and runs the end-to-end tests on that binary under QEMU; on by itself when CI=true
TEXT
}

arm64=no
[[ ${CI:-} != true ]] || arm64=yes
case ${1:-} in
'') ;;
--arm64) arm64=yes ;;
-h | --help)
    usage
    exit
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

log=$(mktemp) cross_log=$(mktemp) cross_pid=''
leave() {
    [[ -z $cross_pid ]] || kill -- "-$cross_pid" 2>/dev/null || true
    rm -f "$log" "$cross_log" "$cross_log.result"
}
trap leave EXIT
summary=() failed=0

# stage NAME COMMAND...: runs one check, keeps its result and time.
stage() {
    local name=$1 begin=$SECONDS result=ok
    shift
    printf '\n=== %s\n' "$name"
    "$@" 2>&1 | tee -a "$log" || result=FAILED
    [[ $result == ok ]] || failed=$((failed + 1))
    summary+=("$(printf '%-7s %5d s  %s' "$result" $((SECONDS - begin)) "$name")")
}

# Most tests wait for time to pass: the build for arm64 takes what they leave of the processors, behind everything else. A group of
# processes of its own, to be ended as a whole, but no session: Linux shares its time out among sessions before it looks at niceness.
begin_arm64_build() {
    set -m
    # shellcheck disable=SC2016
    nice -n 19 bash -c 'board/cross.sh >"$0" 2>&1; echo $? >"$0.result"' "$cross_log" </dev/null &
    cross_pid=$!
    set +m
}

end_arm64_build() {
    until [[ -s $cross_log.result ]]; do
        kill -0 "$cross_pid" || return
        sleep 1
    done
    cat "$cross_log"
    return "$(<"$cross_log.result")"
}

set_up() { if [[ $arm64 == yes ]]; then ./setup.sh --test --cross; else ./setup.sh --test; fi; }

shell_scripts() {
    local scripts
    mapfile -t scripts < <(git ls-files '*.sh' .ci board/*/rootfs/usr/lib/spotter-image)
    shellcheck --severity=warning "${scripts[@]}"
}

# With the service's own versions and build directory: nothing is built twice.
fuzz_targets() {
    cp Cargo.lock fuzz/Cargo.lock
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} cargo build --manifest-path fuzz/Cargo.toml
}

# The whole app: types, lint, and tests with the real SDK, with the spotter that was built for the tests above, and ffmpeg. The SDK is
# an ES module that does not say so: Node.js before 20.19, as Debian 12 has it, cannot load it.
mentra_app() {
    local spotter
    spotter=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/spotter
    cd mentra-app || return
    npm run --silent lint || return
    if ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; then
        echo "SKIPPED: the app for MentraOS: its SDK needs Node.js 20.19 or newer, here is $(node --version); only what needs no SDK is tested"
        npm run --silent build && node --test dist/test/machine.test.js dist/test/tell.test.js
        return
    fi
    SPOTTER_BIN=$spotter npm test --silent
}

# The tests themselves are built for this machine; only the program they start is the arm64 one.
end_to_end_arm64() {
    SPOTTER_BIN=$PWD/board/run-arm64.sh cargo test --test end_to_end -- --test-threads=1
}

printf '=== set-up\n'
set_up
stage "format" cargo fmt --check
stage "clippy" cargo clippy --all-targets -- -D warnings
stage "shell scripts" shell_scripts
stage "the Yocto layer" yocto/check.sh
[[ $arm64 == no ]] || begin_arm64_build
stage "the page's arithmetic" node --test tests/viewer/unit/*.test.mjs
stage "tests" cargo test --no-fail-fast
stage "the app for MentraOS" mentra_app
stage "tests without GStreamer and TensorFlow Lite" cargo test --no-fail-fast --no-default-features
stage "fuzz targets build" fuzz_targets
if [[ $arm64 == yes ]]; then
    stage "the rest of the arm64 release build and its package" end_arm64_build
    stage "end-to-end tests of the arm64 binary" end_to_end_arm64
fi

# What the test harnesses themselves counted.
read -r passed tests_failed < <(awk '
    /^test result: / { for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i - 1); if ($i == "failed;") f += $(i - 1) } }
    END { print p + 0, f + 0 }' "$log")

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}"
printf 'stages: %d ok, %d failed; %d s in all\n' $((${#summary[@]} - failed)) "$failed" "$SECONDS"
grep -a '^SKIPPED' "$log" | sort -u || true
printf '%d passed, %d failed\n' "$passed" "$tests_failed"
[[ $failed == 0 ]]
