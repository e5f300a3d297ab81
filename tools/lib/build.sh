# Sourced by the commands in tools/: builds a preset of CMakePresets.json, quietly.

# As many compilers as there are cores, but not more than fit into memory (about 1 GiB each).
build_jobs() {
  local cores room
  cores=$(nproc)
  room=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  ((room < 1)) && room=1
  echo $((cores < room ? cores : room))
}

# A number of seconds as people say it.
in_words() {
  if (($1 < 90)); then
    echo "$1 s"
  else
    echo "$((($1 + 30) / 60)) min"
  fi
}

# Lets ninja's counter through to a terminal, on one line, with what is left at the pace so far.
show_build_progress() {
  local line text='' done_ total elapsed begin=$SECONDS
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    done_=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]} elapsed=$((SECONDS - begin))
    text="$done_ of $total built"
    # The first few say little about the rest.
    if ((elapsed >= 3 && done_ * 50 >= total && done_ < total)); then
      text+=", about $(in_words $((elapsed * (total - done_) / done_))) left"
    fi
    printf '\r  %-50s' "$text"
  done
  [[ -z $text ]] || printf '\r%*s\r' 52 ''
}

# Whether the build directory was configured with all of these -DNAME=VALUE.
is_configured() {
  local directory=$1 option name value
  shift
  [[ -e $directory/build.ninja ]] || return 1
  for option in "$@"; do
    name=${option#-D} value=${name#*=}
    name=${name%%=*}
    grep -qE "^$name:[A-Z]+=$value\$" "$directory/CMakeCache.txt" || return 1
  done
}

# configure_preset PRESET LOG [-DNAME=VALUE...]: unless it is so already; with a build.ninja there, ninja itself configures
# anew when a CMakeLists.txt has changed.
configure_preset() {
  local name=${command_name:-${0##*/}} preset=$1 log=$2
  shift 2
  ! is_configured "$tree/build/$preset" "$@" || return 0
  echo "$name: building the $preset preset; the first time takes some minutes"
  if ! (cd "$tree" && cmake --preset "$preset" "$@") >"$log" 2>&1 9>&-; then
    tail -n 30 "$log" >&2
    echo "$name: cmake --preset $preset failed: see above, or all of $log" >&2
    return 1
  fi
}

# build_preset PRESET [-DNAME=VALUE...] [TARGET...]: configures and builds (everything, or those targets). On failure the
# compiler's complaint is shown. Quick if all is up to date.
build_preset() {
  local name=${command_name:-${0##*/}} preset=$1 tree directory log settings=() targets=()
  shift
  while [[ ${1-} == -D* ]]; do
    settings+=("$1")
    shift
  done
  tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  directory=$tree/build/$preset
  log=$directory/build.log
  (($#)) && targets=(--target "$@")

  # What an earlier build has said must not be taken for what this one says.
  if ! mkdir -p "$directory" || ! rm -f "$log" || ! : >"$log"; then
    echo "$name: $log cannot be written: whose is $directory, and is the disk full?" >&2
    return 1
  fi
  configure_preset "$preset" "$log" "${settings[@]}" || return 1
  local build=(cmake --build "$directory" --parallel "$(build_jobs)" "${targets[@]}")
  local status=0
  if [[ -t 1 ]]; then
    # The commands that source this set pipefail.
    "${build[@]}" 2>&1 9>&- | tee "$log" | show_build_progress || status=$?
  else
    "${build[@]}" >"$log" 2>&1 9>&- || status=$?
  fi
  if ((status)); then
    grep -A 20 -m 3 -E '^FAILED:|error:|^CMake Error' "$log" >&2 || tail -n 30 "$log" >&2
    echo "$name: the build failed: see above, or all of $log" >&2
    return 1
  fi
}
