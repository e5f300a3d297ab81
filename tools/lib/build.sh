# Sourced by the commands in tools/: builds a preset of CMakePresets.json, quietly.

# As many compilers as there are cores, but not more than fit into memory (about 1 GiB each).
build_jobs() {
  local cores room
  cores=$(nproc)
  room=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  ((room < 1)) && room=1
  echo $((cores < room ? cores : room))
}

# Lets ninja's counter through to a terminal, on one line.
show_build_progress() {
  local line last=
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+/[0-9]+)\] ]] || continue
    last=${BASH_REMATCH[1]}
    printf '\r  %s' "$last"
  done
  [[ -z $last ]] || printf '\r%*s\r' 20 ''
}

# build_preset PRESET [TARGET...]: configures and builds (everything, or those targets). On failure the compiler's
# complaint is shown. Quick if all is up to date.
build_preset() {
  local name=${0##*/} preset=$1 root directory log targets=()
  shift
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  directory=$root/build/$preset
  log=$directory/build.log
  mkdir -p "$directory"
  (($#)) && targets=(--target "$@")

  # With a build.ninja there, ninja itself configures anew when a CMakeLists.txt has changed.
  if [[ ! -e $directory/build.ninja ]]; then
    echo "$name: building the $preset preset; the first time takes some minutes"
    if ! (cd "$root" && cmake --preset "$preset") >"$log" 2>&1; then
      tail -n 30 "$log" >&2
      echo "$name: cmake --preset $preset failed: see above, or all of $log" >&2
      return 1
    fi
  fi
  local build=(cmake --build "$directory" --parallel "$(build_jobs)" "${targets[@]}")
  local status=0
  if [[ -t 1 ]]; then
    # The commands that source this set pipefail.
    "${build[@]}" 2>&1 | tee "$log" | show_build_progress || status=$?
  else
    "${build[@]}" >"$log" 2>&1 || status=$?
  fi
  if ((status)); then
    grep -A 20 -m 3 -E '^FAILED:|[Ee]rror' "$log" >&2 || tail -n 30 "$log" >&2
    echo "$name: the build failed: see above, or all of $log" >&2
    return 1
  fi
}
